"""Reads checkpoints of fairseq (`--arch roberta --encoder-normalize-before`). fairseq need not be installed."""

import logging
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import RobertaPreLayerNormConfig

from rpln_model.base import BASE_MODEL_PREFIX
from rpln_model.config import REGRESSION
from rpln_model.conversion import network_from_tensors, refuse_unknown
from rpln_model.errors import CheckpointError
from rpln_model.fairseq_file import FairseqCheckpoint, read_fairseq
from rpln_model.fairseq_names import (
    BODY,
    LM_HEAD,
    POSITIONS,
    PROJECTION,
    WORDS,
    body_names,
    classifier_names,
    layer_count,
)
from rpln_model.names import listed
from rpln_model.network import Network

_log = logging.getLogger(__name__)

MASKED_LM: Final = "RobertaPreLayerNormForMaskedLM"
CLASSIFIER: Final = "RobertaPreLayerNormForSequenceClassification"

LAYER_NORM_EPS: Final = 1e-5
"""The epsilon of every LayerNorm of fairseq, torch's default. The default of this architecture's config is 1e-12."""

# Weights that every RoBERTa-PreLayerNorm has, and what a checkpoint without them is instead.
_TELLING: Final = {
    f"{BODY}.layer_norm.weight": (
        "its LayerNorms come after each part of a layer (post-LN, trained without --encoder-normalize-before). That is "
        "RoBERTa, another network; expected LayerNorms before each part."
    ),
    f"{BODY}.layernorm_embedding.weight": (
        "its embeddings have no LayerNorm (--arch roberta_prenorm), while this architecture normalises them always. "
        "Expected a checkpoint of --arch roberta --encoder-normalize-before."
    ),
}

# Settings that change what the weights compute, and the only value that this architecture supports.
_SETTINGS: Final[dict[str, object]] = {"no_scale_embedding": True}
_SETTINGS_OF_HEAD: Final[dict[str, object]] = {"pooler_activation_fn": "tanh"}

# The value of `hidden_act` for each value of fairseq's `activation_fn`.
_ACTIVATIONS: Final = {
    "gelu": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "linear": "linear",
    "relu": "relu",
    "relu_squared": "relu2",
    "tanh": "tanh",
}

_TOKEN_TYPES: Final = f"{BASE_MODEL_PREFIX}.embeddings.token_type_embeddings.weight"


def network_from_fairseq(path: Path, *, classification: bool = True) -> Network:
    """Return the network in the file `path`, in eval mode and in the dtype it was saved in, mapped from the file.

    It is a RobertaPreLayerNormForSequenceClassification if the checkpoint has a classification head and
    `classification` is true, and otherwise a RobertaPreLayerNormForMaskedLM. The head that is not used is left out.

    Raises CheckpointError if the file cannot be read or holds a network of another architecture, and ConfigError if its
    sizes describe no network.
    """
    checkpoint = read_fairseq(path)
    for name, reason in _TELLING.items():
        if name not in checkpoint.tensors:
            raise CheckpointError(f"{path} is no RoBERTa-PreLayerNorm: {reason}")
    head = checkpoint.trained_head if classification else None
    tensors = _renamed(checkpoint, head)
    final_norm = tensors[f"{BASE_MODEL_PREFIX}.LayerNorm.weight"]
    # fairseq's RoBERTa has no token types. A table with one row of zeros adds nothing.
    tensors[_TOKEN_TYPES] = torch.zeros(1, final_norm.numel(), dtype=final_norm.dtype)
    architecture = MASKED_LM if head is None else CLASSIFIER
    return network_from_tensors(architecture, _config(checkpoint, head), tensors, source=path)


def _renamed(checkpoint: FairseqCheckpoint, head: str | None) -> dict[str, Tensor]:
    """Return the tensors by transformers' names, with the classification head `head`, or the masked-LM head if None."""
    theirs = checkpoint.tensors
    body = body_names(layer_count(theirs))
    classifiers = {name for each in checkpoint.heads for name in classifier_names(each)}
    known = body.keys() | LM_HEAD.keys() | classifiers
    refuse_unknown(theirs.keys() - known, source=checkpoint.path, kind="fairseq's RoBERTa")
    names = body | (LM_HEAD if head is None else classifier_names(head))
    if missing := [name for name in names if name not in theirs]:
        raise CheckpointError(f"{checkpoint.path} is incomplete, it lacks {listed(missing)}: copy or save it again.")
    for name in names:
        if not theirs[name].is_floating_point():
            raise CheckpointError(
                f"{name} in {checkpoint.path} holds {theirs[name].dtype}; expected float32, float16 or bfloat16: "
                "quantized weights cannot be loaded."
            )
    if unused := theirs.keys() - names.keys():
        _log.info("Left out of %s: %s", checkpoint.path, ", ".join(sorted(unused)))
    return {ours: theirs[name] for name, ours in names.items()}


def _config(checkpoint: FairseqCheckpoint, head: str | None) -> RobertaPreLayerNormConfig:
    """Return the configuration: sizes come from the tensors, everything else from the settings of the training."""
    _check_settings(checkpoint, _SETTINGS | (_SETTINGS_OF_HEAD if head else {}))
    settings, tensors = checkpoint.settings, checkpoint.tensors
    vocab_size, hidden_size = _sizes(checkpoint, WORDS)
    config = RobertaPreLayerNormConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layer_count(tensors),
        num_attention_heads=settings["encoder_attention_heads"],
        intermediate_size=_sizes(checkpoint, f"{BODY}.layers.0.fc1.weight")[0],
        max_position_embeddings=_sizes(checkpoint, POSITIONS)[0],
        type_vocab_size=1,
        hidden_act=_ACTIVATIONS[settings.get("activation_fn", "gelu")],
        layer_norm_eps=LAYER_NORM_EPS,
        hidden_dropout_prob=_share(checkpoint, "dropout", 0.1),
        attention_probs_dropout_prob=_share(checkpoint, "attention_dropout", 0.1),
        classifier_dropout=_share(checkpoint, "pooler_dropout", 0.0),
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        # The file always has both names: for the same table, or for two of them (--untie-weights-roberta).
        tie_word_embeddings=PROJECTION not in tensors or torch.equal(tensors[PROJECTION], tensors[WORDS]),
    )
    if head:
        config.num_labels = _sizes(checkpoint, f"classification_heads.{head}.out_proj.weight")[0]
        config.problem_type = REGRESSION if settings.get("regression_target") else None
    return config


def _sizes(checkpoint: FairseqCheckpoint, name: str) -> tuple[int, int]:
    """Return the rows and columns of a matrix. Raises CheckpointError if the tensor is not a matrix."""
    shape = tuple(checkpoint.tensors[name].shape)
    if len(shape) != 2:
        raise CheckpointError(f"{name} in {checkpoint.path} has the shape {shape}; expected a matrix. Save it again.")
    return shape


def _share(checkpoint: FairseqCheckpoint, name: str, default: float) -> float:
    """Return a dropout probability of the training. Raises CheckpointError if it is not between 0 and 1."""
    value = checkpoint.settings.get(name, default)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise CheckpointError(f"{checkpoint.path} was trained with {name}={value!r}; expected a share, 0 to 1.")
    return float(value)


def _check_settings(checkpoint: FairseqCheckpoint, expected: dict[str, object]) -> None:
    """Raise CheckpointError for settings that this architecture cannot represent."""
    settings = checkpoint.settings
    for name, value in expected.items():
        if settings.get(name, value) != value:
            raise CheckpointError(
                f"{checkpoint.path} was trained with {name}={settings[name]!r}, and this architecture has only "
                f"{value!r}: the same weights would give other outputs."
            )
    activation = settings.get("activation_fn", "gelu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise CheckpointError(
            f"{checkpoint.path} was trained with activation_fn={activation!r}; expected one of "
            f"{', '.join(_ACTIVATIONS)}."
        )
    if type(settings.get("encoder_attention_heads")) is not int:
        raise CheckpointError(
            f"{checkpoint.path} does not say encoder_attention_heads among its settings; expected the number of heads, "
            "which does not show in the weights."
        )
