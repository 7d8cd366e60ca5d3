"""The checkpoints in tests/data/fairseq, the outputs that fairseq gave for them, and altered copies of them."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

DATA: Final = Path(__file__).parent / "data" / "fairseq"
MASKED_LM: Final = DATA / "masked_lm.pt"
CLASSIFIER: Final = DATA / "sentence_prediction.pt"
NO_EMBEDDING_NORM: Final = DATA / "no_embedding_norm.pt"

DICTIONARY: Final = DATA / "dict.txt"
BPE: Final = (DATA / "encoder.json", DATA / "vocab.bpe")
VOCABULARY: Final = ("--dict", str(DICTIONARY), "--bpe", *map(str, BPE))
VOCAB_SIZE: Final = 1009
USABLE_LENGTH: Final = 64

TOLERANCE: Final = 1e-5
"""How far the logits of two implementations may differ. The logits reach 12."""

Alter = Callable[[dict[str, Any]], None]


def expected(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ids that fairseq was run on, a mask that is true where they are not padding, and fairseq's logits."""
    with np.load(DATA / f"{name}_expected.npz") as arrays:
        ids, logits = arrays["input_ids"], arrays["logits"]
    return ids, ids != 1, logits


def expected_ids() -> dict[str, list[list[Any]]]:
    """Return lists of ids by kind: single texts, pairs of texts, and texts with a mask."""
    found: dict[str, list[list[Any]]] = json.loads((DATA / "expected_ids.json").read_text(encoding="utf-8"))
    return found


def read(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint as fairseq wrote it."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def altered(source: Path, alter: Alter, folder: Path, *, zipped: bool = True) -> Path:
    """Write a copy of a checkpoint into `folder`, after `alter` changed its content, and return its path."""
    content = read(source)
    alter(content)
    path = folder / "checkpoint_best.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def settings(content: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the model in a checkpoint. Tests may change them."""
    found = content["cfg"]["model"]
    return vars(found) if isinstance(found, argparse.Namespace) else found
