"""What to write: a bundle, and the choices that its repository is made with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.generation.generator import BATCH_SIZE as GENERATED_ROWS
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.manifest import Graph, Manifest, TensorSpec, read_manifest
from rpln_runtime.options import check_integer
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import check_options
from rpln_runtime.tasks import BATCH, TASKS
from rpln_runtime.tokenization import Tokenizer
from rpln_runtime.triton.buckets import check_buckets, default_buckets
from rpln_runtime.triton.names import Names

_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryPlan:
    """A repository of a bundle.

    Attributes:
        folder: the bundle.
        batch_size: the most rows that the model takes at a time.
        buckets: the lengths that rows are padded to; none where text is generated.
        options: those of the task, for requests that bring none.
    """

    folder: Path
    manifest: Manifest
    names: Names
    batch_size: int
    buckets: tuple[int, ...]
    options: Mapping[str, Any]

    @property
    def generates(self) -> bool:
        """Whether text is generated: then one model serves the whole bundle."""
        return TASKS[self.manifest.task].postprocess is None

    @property
    def providers(self) -> tuple[str, ...]:
        """Where it runs, the first by the configuration that Triton reads unless told otherwise."""
        # ONNX Runtime has no kernels for bf16 on the CPU.
        return ("cuda",) if self.manifest.precision == "bfloat16" else ("cuda", "cpu")

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
    batch_size: int | None,
    buckets: Sequence[int] | None,
    options: Mapping[str, Any],
) -> RepositoryPlan:
    """Check the bundle in `folder` and the choices. Raises ManifestError and InputError."""
    manifest = read_manifest(folder)
    if manifest.task not in TASKS:
        raise ManifestError(f"{folder} is for {manifest.task!r}, this rpln-runtime knows {', '.join(TASKS)}.")
    generates = TASKS[manifest.task].postprocess is None
    size = (GENERATED_ROWS if generates else _BATCH_SIZE) if batch_size is None else batch_size
    check_integer("batch_size", size, minimum=1)
    plan = RepositoryPlan(
        folder=folder,
        manifest=manifest,
        names=Names(name or folder.resolve().name),
        batch_size=size,
        buckets=() if generates else tuple(default_buckets(manifest.usable_length) if buckets is None else buckets),
        options=dict(options),
    )
    check_plan(plan, buckets=buckets is not None)
    return plan


def check_plan(plan: RepositoryPlan, *, buckets: bool) -> None:
    """Check what was chosen against the bundle; `buckets` says that those were. Raises ManifestError and InputError."""
    if plan.generates:
        _check_generator(plan, buckets=buckets)
    else:
        _check_encoder(plan)


def _check_generator(plan: RepositoryPlan, *, buckets: bool) -> None:
    if buckets:
        raise InputError("buckets are for models that read whole texts: prompts that grow are joined as they are.")
    known = [field.name for field in fields(GenerationOptions)]
    for name in plan.options:
        if name not in known:
            raise InputError(f"unknown option {name!r} of a generation: expected one of {', '.join(known)}.")
    GenerationOptions(**plan.options)


def _check_encoder(plan: RepositoryPlan) -> None:
    manifest = plan.manifest
    if plan.buckets:
        check_buckets(plan.buckets, manifest.usable_length)
    _check_tensors(plan.graph)
    row = POSTPROCESS[plan.postprocess]
    check_options(row, plan.options, manifest.task)
    row(manifest=manifest, tokenizer=Tokenizer.from_bundle(plan.folder, manifest), **plan.options)


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
        raise ManifestError(f"{graph.path} takes inputs_embeds, which do not follow from text. Export without it.")
