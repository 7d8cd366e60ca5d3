"""RoBERTa-PreLayerNorm in plain torch modules: the interface of transformers, traceable without surprises."""

from rpln_model.checkpoints import LoadingInfo, check_finite
from rpln_model.config import updated_config
from rpln_model.encoder import RobertaPreLayerNormModel
from rpln_model.errors import CheckpointError, ConfigError, ModelInputError, RplnModelError
from rpln_model.heads import (
    HEADS,
    RobertaPreLayerNormForCausalLM,
    RobertaPreLayerNormForMaskedLM,
    RobertaPreLayerNormForMultipleChoice,
    RobertaPreLayerNormForQuestionAnswering,
    RobertaPreLayerNormForSequenceClassification,
    RobertaPreLayerNormForTokenClassification,
)

__all__ = [
    "HEADS",
    "CheckpointError",
    "ConfigError",
    "LoadingInfo",
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
    "updated_config",
]
