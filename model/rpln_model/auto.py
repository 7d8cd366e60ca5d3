"""transformers' Auto classes and pipelines with the classes of this package, for whoever asks for it."""

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
"""Each Auto class of transformers that knows this architecture -> the row of HEADS that it gives after `register()`.

EncoderDecoderModel is in none: its configuration is that of encoder-decoders of every architecture.
"""


def register() -> None:
    """Make transformers' Auto classes, and so its pipelines, use this package's classes for `roberta-prelayernorm`.

    It holds in this process from now on, in place of transformers' own classes; importing the package changes nothing.
    """
    for auto_class, architecture in AUTO_CLASSES.items():
        auto: Any = getattr(transformers, auto_class)
        auto.register(RobertaPreLayerNormConfig, HEADS[architecture], exist_ok=True)
