"""Makes the checkpoints of the version of transformers that is installed: `python -m tests.data.make_checkpoints`.

There is one checkpoint for each task, as small as possible, and one tokenizer for all. Tests in the environment of the
other version export them.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import EncoderDecoderConfig, EncoderDecoderModel, RobertaPreLayerNormConfig

from tests.export.checkpoints import ENCODER_TASKS, make_model, make_tokenizer
from tests.model.lines import TRANSFORMERS_4
from tests.model.references import shake

TINY: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "max_position_embeddings": 34,
}


def main() -> None:
    folder = Path(__file__).with_name("checkpoints-4x" if TRANSFORMERS_4 else "checkpoints-5x")
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = make_tokenizer(folder / "tokenizer", vocab_size=264)
    for task in (*ENCODER_TASKS, "text-generation"):
        make_model(task, vocab_size=len(tokenizer), **TINY).to(torch.float16).save_pretrained(folder / task)
    make_encoder_decoder(vocab_size=len(tokenizer)).to(torch.float16).save_pretrained(folder / "text2text-generation")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    sys.stdout.write(f"{folder}: {size:,} bytes\n")


def make_encoder_decoder(*, vocab_size: int) -> Any:
    """Return an encoder-decoder whose decoder is wider than its encoder, so that its output is projected."""
    encoder = RobertaPreLayerNormConfig(**TINY, vocab_size=vocab_size, num_attention_heads=2, type_vocab_size=1)
    decoder = RobertaPreLayerNormConfig(
        **(TINY | {"hidden_size": 12}), vocab_size=vocab_size, num_attention_heads=2, type_vocab_size=1
    )
    config: Any = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=0, pad_token_id=1, eos_token_id=2
    )
    model = EncoderDecoderModel(config)
    shake(model, seed=0)
    return model


if __name__ == "__main__":
    main()
