"""Writes weights in every form in which transformers has ever written them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import torch


def save_sharded(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size="12KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def save_pickle(model: Any, folder: Path) -> None:
    """Write a pickle as transformers 4 did. transformers 5 writes only safetensors."""
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def save_old_pickle(model: Any, folder: Path) -> None:
    """Write a pickle as torch did until 1.5, with the buffers that transformers saved until 4.31."""
    model.config.save_pretrained(folder)
    tables = [name for name in model.state_dict() if name.endswith("embeddings.word_embeddings.weight")]
    buffers = {name.replace("word_embeddings.weight", "position_ids"): torch.arange(5)[None] for name in tables}
    torch.save(model.state_dict() | buffers, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def save_sharded_pickle(model: Any, folder: Path) -> None:
    model.config.save_pretrained(folder)
    huggingface_hub.save_torch_state_dict(model.state_dict(), folder, max_shard_size="12KB", safe_serialization=False)
    assert len(list(folder.glob("pytorch_model-*.bin"))) > 2


SAVERS: dict[str, Callable[[Any, Path], None]] = {
    "safetensors": lambda model, folder: model.save_pretrained(folder),
    "sharded": save_sharded,
    "pickle": save_pickle,
    "old_pickle": save_old_pickle,
    "sharded_pickle": save_sharded_pickle,
}
