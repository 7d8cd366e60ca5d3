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
from rpln_runtime.manifest import Manifest


def find_checkpoint(bundle: Path, manifest: Manifest) -> Path:
    """Return the checkpoint that the bundle in the folder `bundle` was made from, as its manifest says.

    It is looked for among the embedded checkpoints, in the current folder, beside the bundle, and in every revision in
    the hub's cache. Raises PlanError if none has the name, and ValidationError if those that have it hold other
    weights. Where the SHA-256 may cover more than the network (an adapter, or Dense layers), the first checkpoint of
    the name is returned, and the caller has to compare the SHA-256.
    """
    source = manifest.source
    places = list(dict.fromkeys(path for path in _places(bundle, source.name) if path.exists()))
    for path in places:
        if _sha256(path) == source.sha256:
            return path
    if places and (source.adapter or manifest.sentences):
        return places[0]
    made = f"{bundle} was made from {source.name} (SHA-256 of its weights: {source.sha256[:8]}...)"
    run = f"Run: rpln validate {bundle} CHECKPOINT"
    if places:
        raise ValidationError(f"{made}, but these weights are not in {', '.join(map(str, places))}. {run}")
    raise PlanError(
        f"{made}, which is neither in the current folder, nor beside the bundle, nor in the hub's cache. {run}"
    )


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
    except CheckpointError:
        return None
