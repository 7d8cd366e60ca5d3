"""POSTPROCESS: the class that makes answers of the outputs of a task's graph. `Task.postprocess` is the key.

A new task needs a file here with a subclass of `Postprocess`, and a row below.
"""

from typing import Any, Final

from rpln_runtime.postprocess.base import Postprocess
from rpln_runtime.postprocess.feature_extraction import FeatureExtraction
from rpln_runtime.postprocess.fill_mask import FillMask
from rpln_runtime.postprocess.multiple_choice import MultipleChoice
from rpln_runtime.postprocess.question_answering import QuestionAnswering
from rpln_runtime.postprocess.text_classification import TextClassification
from rpln_runtime.postprocess.token_classification import TokenClassification

POSTPROCESS: Final[dict[str, type[Postprocess[Any]]]] = {
    "feature_extraction": FeatureExtraction,
    "fill_mask": FillMask,
    "multiple_choice": MultipleChoice,
    "question_answering": QuestionAnswering,
    "text_classification": TextClassification,
    "token_classification": TokenClassification,
}
"""The classes by the value of `Task.postprocess`."""
