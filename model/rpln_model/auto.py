"""Registers this package's classes with transformers' Auto classes and pipelines, when a caller asks for it."""

from typing import Any, Final

import transformers
from transformers import RobertaPreLayerNormConfig

from rpln_model.heads import HEADS

AUTO_CLASSES: Final = {
    "AutoModel": "RobertaPreLayerNormModel",
    "AutoModelForMaskedLM": "RobertaPreLayerNormForMaskedLM",
    "AutoModelForCausalLM": "RobertaPreLayerNormForCausalLM",
    "AutoModelForSequenceClassification": "RobertaPreLayerNormForSequenceClassification",
    "AutoModelForTokenClassification": "RobertaPreLayerNormForTokenClassification",
    "AutoModelForQuestionAnswering": "RobertaPreLayerNormForQuestionAnswering",
    "AutoModelForMultipleChoice": "RobertaPreLayerNormForMultipleChoice",
}
"""For each Auto class of transformers that knows this architecture, the row of HEADS that it makes after `register()`.

No Auto class makes an EncoderDecoderModel, because its configuration type is shared by all architectures.
"""


def register() -> None:
    """Make transformers' Auto classes and pipelines use this package's classes for `roberta-prelayernorm`.

    This replaces transformers' own classes for the rest of the process. Importing the package changes nothing.
    """
    for auto_class, architecture in AUTO_CLASSES.items():
        auto: Any = getattr(transformers, auto_class)
        auto.register(RobertaPreLayerNormConfig, HEADS[architecture], exist_ok=True)
