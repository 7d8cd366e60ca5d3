"""Finds the checkpoint that a bundle was made from: its manifest holds the name, and the SHA-256 of the weights."""

import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants

from rpln_export.checkpoint.model import sha256_of_weights
from rpln_export.errors import PlanError, ValidationError
from rpln_export.plan.defaults import DEFAULTS
from rpln_model.errors import CheckpointError
from rpln_model.weights import weight_files
from rpln_runtime.manifest import Source


def find_checkpoint(bundle: Path, source: Source) -> Path:
    """Return the checkpoint that the bundle in the folder `bundle` was made from, which its manifest calls `source`.

    It is looked for among the embedded checkpoints, in this folder, beside the bundle, and in every revision in the
    hub's cache. Raises PlanError if none has the name, and ValidationError if those that have it hold other weights.
    """
    places = list(dict.fromkeys(path for path in _places(bundle, source.name) if path.exists()))
    for path in places:
        if _sha256(path) == source.sha256:
            return path
    made = f"{bundle} was made from {source.name} (SHA-256 of its weights: {source.sha256[:8]}...)"
    run = f"Run: rpln validate {bundle} CHECKPOINT"
    if places:
        raise ValidationError(f"{made}, but {', '.join(map(str, places))} has other weights, or none. {run}")
    raise PlanError(f"{made}, which is neither in this folder, nor beside the bundle, nor in the hub's cache. {run}")


def _places(bundle: Path, name: str) -> Iterator[Path]:
    """Yield the places where a checkpoint of this name may be."""
    yield from (default.folder for default in DEFAULTS.values() if default.name == name)
    yield Path(name)
    yield Path(os.path.realpath(bundle)).parent / name
    for repository in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        if repository.name.split("--")[-1] == name:
            yield from sorted(repository.glob("snapshots/*"))


def _sha256(path: Path) -> str | None:
    """Return the SHA-256 of the weights in a folder, or in a file of fairseq; None where there are none."""
    try:
        return sha256_of_weights([path] if path.is_file() else weight_files(path))
    except (CheckpointError, OSError):
        return None
