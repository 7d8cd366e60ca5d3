"""The networks of the checkpoints: what their configurations share, and the encoder that five of them have."""

from typing import Any, Final

from tokenizers import Tokenizer
from transformers import RobertaPreLayerNormConfig

from training.options import CHECKPOINTS
from training.tokenizer import END_ID, PAD_ID, START_ID

SHARED: Final[dict[str, Any]] = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": START_ID,
    "pad_token_id": PAD_ID,
    "eos_token_id": END_ID,
}
"""Fields of every configuration."""

NO_DROPOUT: Final[dict[str, Any]] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""In few epochs a network learns nothing by heart."""

WIDE_START: Final[dict[str, Any]] = {"initializer_range": 0.05}
"""The usual 0.02 suits wider networks; these need more steps from there."""

ENCODER_LENGTH: Final = 128
"""The most tokens that the five encoders read, <s> and </s> included."""

PRETRAINED: Final = CHECKPOINTS / "fill-mask"
"""The checkpoint of `train_masked_lm`, from which the other encoders start."""


def table_sizes(tokenizer: Tokenizer, *, max_length: int) -> dict[str, Any]:
    """Return the fields that size the tables of words and of positions; positions are counted from PAD_ID + 1."""
    return {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": max_length + PAD_ID + 1}


def encoder_config(tokenizer: Tokenizer) -> RobertaPreLayerNormConfig:
    """Return the configuration of the five encoders, narrow inside, so that together they are 10 MB in fp16."""
    return RobertaPreLayerNormConfig(
        **SHARED,
        **NO_DROPOUT,
        **WIDE_START,
        **table_sizes(tokenizer, max_length=ENCODER_LENGTH),
        num_hidden_layers=4,
        intermediate_size=256,
    )


def pretrained_tokenizer() -> Tokenizer:
    """Return the tokenizer of the fill-mask checkpoint."""
    return Tokenizer.from_file(str(PRETRAINED / "tokenizer.json"))
