"""The RoBERTa-PreLayerNorm models as plain torch modules, with the interface of transformers, written to be traced."""

from rpln_model.auto import register
from rpln_model.checkpoints import check_finite
from rpln_model.composition import Composition, load_composition
from rpln_model.config import updated_config
from rpln_model.dinkytrain import network_from_dinkytrain
from rpln_model.encoder import RobertaPreLayerNormModel
from rpln_model.encoder_decoder import EncoderDecoderModel
from rpln_model.errors import CheckpointError, ConfigError, ModelInputError, RplnModelError
from rpln_model.fairseq import network_from_fairseq
from rpln_model.heads import (
    HEADS,
    RobertaPreLayerNormForMultipleChoice,
    RobertaPreLayerNormForQuestionAnswering,
    RobertaPreLayerNormForSequenceClassification,
    RobertaPreLayerNormForTokenClassification,
)
from rpln_model.language_models import RobertaPreLayerNormForCausalLM, RobertaPreLayerNormForMaskedLM

__all__ = [
    "HEADS",
    "CheckpointError",
    "Composition",
    "ConfigError",
    "EncoderDecoderModel",
    "ModelInputError",
    "RobertaPreLayerNormForCausalLM",
    "RobertaPreLayerNormForMaskedLM",
    "RobertaPreLayerNormForMultipleChoice",
    "RobertaPreLayerNormForQuestionAnswering",
    "RobertaPreLayerNormForSequenceClassification",
    "RobertaPreLayerNormForTokenClassification",
    "RobertaPreLayerNormModel",
    "RplnModelError",
    "check_finite",
    "load_composition",
    "network_from_dinkytrain",
    "network_from_fairseq",
    "register",
    "updated_config",
]
