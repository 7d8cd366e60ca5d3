"""Writes a bundle as a model repository of Triton Inference Server."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rpln_runtime._version import __version__
from rpln_runtime.triton.contents import WRITTEN, WrittenModel, manifest_bytes, roles_of
from rpln_runtime.triton.pbtxt import text_from_message
from rpln_runtime.triton.plan import RepositoryPlan, make_plan
from rpln_runtime.triton.publishing import MARKER, published
from rpln_runtime.triton.readme import readme

VERSION: Final = "1"
"""The folder of the version that is written."""


def write_repository(
    folder: str | Path,
    destination: str | Path,
    *,
    name: str | None = None,
    batch_size: int | None = None,
    buckets: Sequence[int] | None = None,
    max_text_bytes: int | None = None,
    options: Mapping[str, Any] | None = None,
    engine: str | None = None,
) -> list[str]:
    """Write the bundle in `folder` as the model repository `destination` and return the names of its models.

    Args:
        folder: the folder of the bundle.
        destination: the folder to write. An older repository there is replaced.
        name: the name that clients ask for. None: the name of the bundle's folder.
        batch_size: the most rows that the model takes at a time. None: 32, or 8 where text is generated.
        buckets: the lengths in tokens that rows are padded to, in rising order. None: powers of two from 32.
        max_text_bytes: the most bytes that the texts and options of a request have together; more are refused before
            they are read. None: 16 for each token of the rows that the model takes at a time, and at least 65,536.
        options: the options of the task for requests that have none of their own.
        engine: the TensorRT engine of the bundle to serve instead of the graph, by its file's name without .plan.

    Raises ManifestError for a bundle that is broken or cannot be served, InputError for a choice that does not fit it,
    and RepositoryDestinationError where the repository cannot be written.
    """
    plan = make_plan(
        Path(folder),
        name=name,
        batch_size=batch_size,
        buckets=buckets,
        max_text_bytes=max_text_bytes,
        options=options or {},
        engine=engine,
    )
    return write_plan(plan, Path(destination))


def write_plan(plan: RepositoryPlan, destination: Path) -> list[str]:
    """Write the repository that `plan` describes, and return the names of its models.

    Raises RepositoryDestinationError where it cannot be written.
    """
    with published(destination) as partial:
        models = {role: WRITTEN[role](plan) for role in roles_of(plan)}
        for model in models.values():
            _write(model, plan.folder, partial)
        (partial / "README.md").write_text(readme(plan), encoding="utf-8")
        marker = {
            "rpln_runtime": __version__,
            "models": {model.name: role for role, model in models.items()},
            "source": dataclasses.asdict(plan.manifest.source),
            "manifest": hashlib.sha256(manifest_bytes(plan.manifest)).hexdigest(),
        }
        (partial / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    return [model.name for model in models.values()]


def _write(model: WrittenModel, source: Path, repository: Path) -> None:
    """Write a model, with copies from the bundle in `source`."""
    folder = repository / model.name
    files = {
        **{path: text_from_message(config).encode() for path, config in model.configs.items()},
        **{f"{VERSION}/{path}": content for path, content in model.version.items()},
        **model.beside,
    }
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copyfile(source / content.path, target)
