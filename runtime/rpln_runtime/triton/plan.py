"""What is written: a bundle, and the choices that its repository is written with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rpln_runtime.engines.manifest import EngineManifest
from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.generation.defaults import options_over_defaults
from rpln_runtime.generation.generator import BATCH_SIZE as GENERATED_ROWS
from rpln_runtime.manifest import Graph, Manifest, TensorSpec, read_manifest
from rpln_runtime.options import check_integer
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import ItemField, check_options
from rpln_runtime.tasks import BATCH, TASKS
from rpln_runtime.tokenization import Tokenizer
from rpln_runtime.triton.buckets import check_buckets, default_buckets
from rpln_runtime.triton.engine_choice import check_fit, engine_buckets, engine_from_name, longest_row, most_rows
from rpln_runtime.triton.interfaces import INTERFACES, Interface
from rpln_runtime.triton.labels import labels_of
from rpln_runtime.triton.names import Names

MOST_ROWS = 2**31 - 1  # max_batch_size is an int32
MOST_TEXT_BYTES = 2**31 - 1
_BATCH_SIZE = 32
_BYTES_OF_TOKEN = 16
_LEAST_TEXT_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryPlan:
    """A repository that is about to be written, or checked.

    Attributes:
        folder: the folder of the bundle.
        names: the names of the models.
        batch_size: the most rows that the model takes at a time.
        buckets: the lengths that rows are padded to; none where text is generated.
        max_text_bytes: the most bytes that the texts and options of a request have together.
        options: the options of the task for requests that have none of their own.
        engine: the TensorRT engine that is served; None where the graph is served by ONNX Runtime.
    """

    folder: Path
    manifest: Manifest
    names: Names
    batch_size: int
    buckets: tuple[int, ...]
    max_text_bytes: int
    options: Mapping[str, Any]
    engine: EngineManifest | None = None

    @property
    def generates(self) -> bool:
        """Whether the task generates text. Then the repository has a single model."""
        return TASKS[self.manifest.task].generates

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers that there is a configuration for. Triton reads that of the first one unless told otherwise."""
        # ONNX Runtime has no kernels for bf16 on the CPU.
        return ("cuda",) if self.manifest.precision == "bfloat16" else ("cuda", "cpu")

    @property
    def graph(self) -> Graph:
        """The graph that is served where no text is generated."""
        return self.manifest.graphs[0]

    @property
    def fields(self) -> tuple[ItemField, ...]:
        """What a request of one item holds, where no text is generated."""
        return POSTPROCESS[self._key].fields

    @property
    def interface(self) -> Interface:
        """What a response holds, where no text is generated."""
        return INTERFACES[self._key]

    @property
    def _key(self) -> str:
        return str(TASKS[self.manifest.task].postprocess)

    @property
    def answered(self) -> tuple[TensorSpec, ...]:
        """The outputs of the graph that answers are made from."""
        names = TASKS[self.manifest.task].answering(spec.name for spec in self.graph.outputs)
        return tuple(spec for spec in self.graph.outputs if spec.name in names)


def make_plan(
    folder: Path,
    *,
    name: str | None,
    batch_size: int | None,
    buckets: Sequence[int] | None,
    max_text_bytes: int | None,
    options: Mapping[str, Any],
    engine: str | None,
) -> RepositoryPlan:
    """Check the bundle in `folder` and the choices, and return the plan.

    Raises ManifestError for a bundle that cannot be served, and InputError for a choice that does not fit it.
    """
    manifest = read_manifest(folder)
    if manifest.task not in TASKS:
        raise ManifestError(f"{folder} is for {manifest.task!r}, but this rpln-runtime knows only {', '.join(TASKS)}.")
    generates = TASKS[manifest.task].generates
    chosen = None
    if engine is not None:
        if generates:
            raise InputError(
                "an engine cannot generate text in Triton. Leave out --engine: the graphs are served instead."
            )
        chosen = engine_from_name(folder, manifest, engine)
        # Texts are then cut to the lengths that the engine takes, or read in windows of such lengths.
        manifest = replace(manifest, usable_length=longest_row(chosen, manifest.usable_length))
    limit = manifest.usable_length
    if buckets is None and not generates:
        buckets = default_buckets(limit) if chosen is None else engine_buckets(chosen, limit)
    if buckets is not None:
        check_buckets(buckets, limit)
    if batch_size is None:
        batch_size = _default_batch(chosen, buckets)
    plan = RepositoryPlan(
        folder=folder,
        manifest=manifest,
        names=Names(name or folder.resolve().name),
        batch_size=batch_size,
        buckets=tuple(buckets or ()),
        max_text_bytes=default_text_bytes(limit, batch_size) if max_text_bytes is None else max_text_bytes,
        options=dict(options),
        engine=chosen,
    )
    check_plan(plan)
    return plan


def _default_batch(engine: EngineManifest | None, buckets: Sequence[int] | None) -> int:
    if buckets is None:
        return GENERATED_ROWS
    return _BATCH_SIZE if engine is None else max(1, min(_BATCH_SIZE, most_rows(engine, buckets)))


def default_text_bytes(limit: int, batch_size: int) -> int:
    """Return the bytes of all the rows that the model takes at a time, of `limit` tokens each, and at least 64 KiB.

    A token of ordinary text stands for 1 to 6 bytes; here it counts 16. A long text that is to be cut may need the
    64 KiB.
    """
    return min(max(_BYTES_OF_TOKEN * limit * batch_size, _LEAST_TEXT_BYTES), MOST_TEXT_BYTES)


def check_plan(plan: RepositoryPlan) -> None:
    """Check that the choices fit the bundle.

    Raises ManifestError for a bundle that cannot be served, and InputError for a choice that does not fit it.
    """
    check_integer("batch_size", plan.batch_size, minimum=1, maximum=MOST_ROWS)
    check_integer("max_text_bytes", plan.max_text_bytes, minimum=1, maximum=MOST_TEXT_BYTES)
    if plan.generates:
        _check_generator(plan)
    else:
        _check_encoder(plan)


def _check_generator(plan: RepositoryPlan) -> None:
    if plan.buckets:
        raise InputError(
            "a bundle that generates text has no buckets: prompts of all lengths run together. Leave them out."
        )
    generation = plan.manifest.generation
    options_over_defaults(plan.options, generation.defaults if generation else {})


def _check_encoder(plan: RepositoryPlan) -> None:
    manifest = plan.manifest
    if plan.buckets:
        check_buckets(plan.buckets, manifest.usable_length)
    _check_tensors(plan.graph)
    labels_of(manifest)  # raises for one that does not fit a line
    if plan.engine is not None:
        check_fit(plan.engine, plan.buckets, plan.batch_size)
    row = POSTPROCESS[str(TASKS[manifest.task].postprocess)]
    check_options(row, plan.options, manifest.task)
    task = row(manifest=manifest, tokenizer=Tokenizer.from_bundle(plan.folder, manifest), **plan.options)
    if task.item_fields() != plan.fields:
        raise InputError(
            f"with the options {', '.join(plan.options)}, an item has other parts than the inputs that a repository "
            f"has for {manifest.task} ({', '.join(field.name for field in plan.fields)}). Leave out the option that "
            "changes items."
        )


def _check_tensors(graph: Graph) -> None:
    """Raise ManifestError for tensors that Triton cannot join along a batch axis, or that cannot be made from text."""
    for spec in (*graph.inputs, *graph.outputs):
        if not spec.shape or spec.shape[0] != BATCH:
            axes = ", ".join(map(str, spec.shape))
            raise ManifestError(
                f"{spec.name} ({axes}) of {graph.path} does not begin with the batch axis, along which Triton joins "
                "requests. Export the checkpoint without it; for fill-mask, use --logits positions or all."
            )
    if any(spec.name == "inputs_embeds" for spec in graph.inputs):
        raise ManifestError(
            f"{graph.path} takes inputs_embeds, which cannot be made from text. Export the checkpoint without it."
        )
