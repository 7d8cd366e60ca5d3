"""What to write: a bundle, and the choices that its repository is made with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.manifest import Graph, Manifest, TensorSpec, read_manifest
from rpln_runtime.options import check_integer
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import check_options
from rpln_runtime.tasks import BATCH, TASKS
from rpln_runtime.tokenization import Tokenizer
from rpln_runtime.triton.buckets import check_buckets, default_buckets
from rpln_runtime.triton.names import Names

BATCH_SIZE: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryPlan:
    """A repository of an encoder's bundle.

    Attributes:
        folder: the bundle.
        batch_size: the most rows that the model takes at a time.
        buckets: the lengths that rows are padded to.
        options: those of the task, for requests that bring none.
    """

    folder: Path
    manifest: Manifest
    names: Names
    batch_size: int
    buckets: tuple[int, ...]
    options: Mapping[str, Any]

    @property
    def graph(self) -> Graph:
        """The graph that is served."""
        return self.manifest.graphs[0]

    @property
    def postprocess(self) -> str:
        """The row of POSTPROCESS, of FIELDS and of COLUMNS."""
        return str(TASKS[self.manifest.task].postprocess)

    @property
    def answered(self) -> tuple[TensorSpec, ...]:
        """The outputs of the graph that answers are made of."""
        names = {tensor.name for tensor in TASKS[self.manifest.task].outputs}
        return tuple(spec for spec in self.graph.outputs if spec.name in names)


def make_plan(
    folder: Path,
    *,
    name: str | None,
    batch_size: int,
    buckets: Sequence[int] | None,
    options: Mapping[str, Any],
) -> RepositoryPlan:
    """Check the bundle in `folder` and the choices. Raises ManifestError and InputError."""
    manifest = read_manifest(folder)
    check_integer("batch_size", batch_size, minimum=1)
    limit = manifest.usable_length
    chosen = default_buckets(limit) if buckets is None else buckets
    check_buckets(chosen, limit)
    plan = RepositoryPlan(
        folder=folder,
        manifest=manifest,
        names=Names(name or folder.resolve().name),
        batch_size=batch_size,
        buckets=tuple(chosen),
        options=dict(options),
    )
    _check_tensors(plan.graph)
    row = POSTPROCESS[plan.postprocess]
    check_options(row, options, manifest.task)
    row(manifest=manifest, tokenizer=Tokenizer.from_bundle(folder, manifest), **options)
    return plan


def _check_tensors(graph: Graph) -> None:
    """Triton joins requests along the first axis of every tensor, and a text's tensors are made by the first step."""
    for spec in (*graph.inputs, *graph.outputs):
        if not spec.shape or spec.shape[0] != BATCH:
            axes = ", ".join(map(str, spec.shape))
            raise ManifestError(
                f"{spec.name} ({axes}) of {graph.path} has no batch axis in front, by which Triton joins requests. "
                "Export without it; fill-mask with --logits positions or all."
            )
    if any(spec.name == "inputs_embeds" for spec in graph.inputs):
        raise InputError(f"{graph.path} takes inputs_embeds, which do not follow from text. Export without it.")
