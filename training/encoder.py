"""The small encoder that the fill-mask model trains, and that the other demo models start from."""

import time
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer
from transformers import RobertaPreLayerNormConfig

from rpln_model.network import Network
from training.options import ROOT
from training.tokenizer import END_ID, PAD_ID, START_ID, save_tokenizer

CHECKPOINTS: Final = "rpln_export/default_checkpoints"
PRETRAINED: Final = ROOT / CHECKPOINTS / "fill-mask"
"""The checkpoint of `train_masked_lm`."""

MAX_LENGTH: Final = 128  # tokens, <s> and </s> included


def encoder_config(vocabulary_size: int) -> RobertaPreLayerNormConfig:
    """Return the configuration that all of them share; narrow inside, so that five of them are 10 MB in fp16."""
    return RobertaPreLayerNormConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_dropout_prob=0.0,  # in few epochs nothing is learned by heart
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,  # the usual 0.02 suits wider models
        max_position_embeddings=MAX_LENGTH + PAD_ID + 1,  # positions are counted from PAD_ID + 1
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=START_ID,
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
    )


def pretrained_tokenizer(folder: Path = PRETRAINED) -> Tokenizer:
    """Return the tokenizer of the fill-mask model."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def save_encoder(model: Network, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the checkpoint in fp16, with the tokenizer's files; the model is fp16 afterwards."""
    model.half().save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_length=MAX_LENGTH)


def training_record(model: Network, *, seed: int, epochs: int, steps: int, started: float) -> dict[str, Any]:
    """Return what metrics.json says of a training that began when `time.process_time()` was `started`."""
    return {
        "seed": seed,
        "epochs": epochs,
        "steps": steps,
        "parameters": model.num_parameters(),
        "cpu_minutes": round((time.process_time() - started) / 60, 1),
    }
