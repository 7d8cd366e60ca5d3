"""MEASURES: how each task is measured, a class for each form that its examples may have.

To choose one, the classes that fit the network are taken, and of these the one whose fields the first line has. A new
task needs a file here with a subclass of `Measure`, and a row below.
"""

from typing import Any, Final

from rpln_export.evaluation.measures.base import Measure
from rpln_export.evaluation.measures.decoders import Continuations, Translations
from rpln_export.evaluation.measures.feature_extraction import Retrieval, Similarity
from rpln_export.evaluation.measures.fill_mask import Cloze, MaskedTexts
from rpln_export.evaluation.measures.multiple_choice import Choices
from rpln_export.evaluation.measures.question_answering import Answers
from rpln_export.evaluation.measures.text_classification import MultiLabel, Regression, SingleLabel
from rpln_export.evaluation.measures.token_classification import Entities, WordLabels

MEASURES: Final[dict[str, tuple[type[Measure[Any, Any]], ...]]] = {
    "feature-extraction": (Similarity, Retrieval),
    "fill-mask": (Cloze, MaskedTexts),
    "text-classification": (SingleLabel, MultiLabel, Regression),
    "token-classification": (Entities, WordLabels),
    "question-answering": (Answers,),
    "multiple-choice": (Choices,),
    "text-generation": (Continuations,),
    "text2text-generation": (Translations,),
}
"""The classes by the name of the task."""
