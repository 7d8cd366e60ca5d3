"""What is evaluated: a bundle, a checkpoint in eager torch, or functions that run graphs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from rpln_export.checkpoint.conversion import as_transformers, tokenizer_for, vocabulary_from_options
from rpln_export.checkpoint.loading import Checkpoint, load_checkpoint
from rpln_export.checkpoint.manifest import manifest_from_checkpoint
from rpln_export.checkpoint.planned_graphs import PlannedGraph, planned_graphs_from_model
from rpln_export.plan.export_plan import ExportPlan, make_plan
from rpln_export.plan.limits import value_limits
from rpln_export.validation.decoding import RunGraph, eager_run
from rpln_runtime.engines.base import Shapes
from rpln_runtime.engines.manifest import Profile
from rpln_runtime.engines.providers import provider_row
from rpln_runtime.generation.decoder import decoder_variants, encoder_variants
from rpln_runtime.manifest import Graph, Manifest, TensorSpec, read_manifest
from rpln_runtime.pipelines import task_from_name
from rpln_runtime.session import Session, default_provider, open_session
from rpln_runtime.tasks import Task, Tensor
from rpln_runtime.tokenization import Tokenizer

TORCH: Final = "torch"
"""What stands in the place of a provider where eager torch runs the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Graphs that are ready to run, with all that is needed to feed them.

    Attributes:
        manifest: the description of the graphs.
        tokenizer: makes tokens of texts.
        sessions: what runs each graph, by the name of its variant, in the order of their use: a decoder's graph for
            prompts, that for steps if it is another one, and the graph of the encoder if there is one.
    """

    manifest: Manifest
    tokenizer: Tokenizer
    sessions: Mapping[str, Session]

    @property
    def task(self) -> Task:
        """The row of TASKS."""
        return task_from_name(self.manifest.task)

    @property
    def provider(self) -> str:
        """The provider that runs the graphs."""
        return next(iter(self.sessions.values())).provider


def runner_from_bundle(folder: Path, *, provider: str | None = None) -> Runner:
    """Open the bundle in `folder` on `provider`; None means the one that its export measured to be the fastest.

    Raises what `rpln_runtime.load` raises, and InputError for a decoder without the graphs that generating needs.
    """
    manifest = read_manifest(folder)
    chosen = provider or default_provider(manifest)
    variants: Sequence[str] = [manifest.graphs[0].variant]
    if task_from_name(manifest.task).generates:
        decoder = decoder_variants(manifest, takes_empty=provider_row(chosen).takes_empty)
        variants = [*dict.fromkeys(decoder), *encoder_variants(manifest)]
    return Runner(
        manifest=manifest,
        tokenizer=Tokenizer.from_bundle(folder, manifest),
        sessions={
            variant: open_session(folder, manifest, provider=chosen, variant=variant, verify=False)
            for variant in variants
        },
    )


def runner_from_checkpoint(
    checkpoint: str,
    *,
    task: str | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    is_decoder: bool = False,
    dictionary: Path | None = None,
    bpe: tuple[Path, Path] | None = None,
) -> Runner:
    """Load a checkpoint, and return what runs it in eager torch, in fp32.

    Args:
        checkpoint: a folder, a hub id or a file of fairseq.
        task: what it does; None means the task that its config names.
        revision: the branch, tag or commit of a hub id.
        tokenizer: a folder or hub id; None means the checkpoint's own.
        is_decoder: whether the network is to be read as a decoder.
        dictionary: the dictionary of a checkpoint of fairseq.
        bpe: the files of GPT-2's byte-level BPE, which go with `dictionary`.

    Raises what an export raises for a checkpoint that it cannot read.
    """
    vocabulary = vocabulary_from_options(dictionary, bpe)
    with (
        as_transformers(checkpoint, task=task, revision=revision) as readable,
        tokenizer_for(readable, tokenizer=tokenizer, vocabulary=vocabulary) as own_tokenizer,
    ):
        options: dict[str, Any] = {"origin": readable.origin, "revision": revision, "tokenizer": own_tokenizer}
        plan = make_plan(readable.source, task=task, is_decoder=is_decoder, **options)
        if plan.task.generates:  # without a cache, a batch of texts is a single run
            plan = make_plan(
                readable.source, task=plan.task.name, is_decoder=is_decoder, variants=["full"], logits="all", **options
            )
        return runner_from_plan(plan)


def runner_from_plan(plan: ExportPlan) -> Runner:
    """Load the checkpoint of `plan`, and return what runs the plan's graphs in eager torch, in fp32.

    Raises what `load_checkpoint` raises.
    """
    checkpoint = load_checkpoint(plan)
    planned_graphs = planned_graphs_from_model(plan, checkpoint.model, mask_token_id=checkpoint.tokenizer.mask_token_id)
    manifest = manifest_from_planned(plan, checkpoint, planned_graphs)
    runs = {planned.name: eager_run(planned) for planned in planned_graphs}
    return runner_from_functions(manifest, Tokenizer(checkpoint.tokenizer.backend_tokenizer), runs, provider=TORCH)


def manifest_from_planned(plan: ExportPlan, checkpoint: Checkpoint, planned_graphs: Sequence[PlannedGraph]) -> Manifest:
    """Return the manifest of graphs that are not saved, and that compute in fp32."""
    return manifest_from_checkpoint(
        plan,
        checkpoint,
        tuple(_graph_from_planned(planned, plan) for planned in planned_graphs),
        precision="float32",
        passes={},
        versions={},
        optimization=None,
    )


def runner_from_functions(
    manifest: Manifest, tokenizer: Tokenizer, runs: Mapping[str, RunGraph], *, provider: str
) -> Runner:
    """Return what runs the graphs of `manifest` by the functions in `runs`, which are given by the graphs' variants.

    A function takes the inputs of its graph and returns at least its outputs, by name. `provider` is a name to show.
    """
    sessions = {
        graph.variant: Session(manifest, graph, _FunctionEngine(graph, runs[graph.variant]), provider=provider)
        for graph in manifest.graphs
        if graph.variant in runs
    }
    return Runner(manifest=manifest, tokenizer=tokenizer, sessions=sessions)


def _graph_from_planned(planned: PlannedGraph, plan: ExportPlan) -> Graph:
    """Return the description of a graph that is run in eager torch, so that there is no file."""
    values = value_limits(plan.limits_of(planned.plan))

    def specs(tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name=name,
                dtype=tensor.dtype,
                shape=tuple(axis if axis in plan.axes else size for axis, size in zip(tensor.axes, sizes, strict=True)),
                values=values.get(name),
            )
            for tensor in tensors
            for name, sizes in planned.call.shapes(tensor, dict.fromkeys(plan.axes, 0)).items()
        )

    return Graph(
        variant=planned.name,
        path=planned.plan.path,
        opset=plan.opset,
        inputs=specs(planned.plan.inputs),
        outputs=specs(planned.plan.outputs),
    )


class _FunctionEngine:
    """An engine that calls a function."""

    profiles: Sequence[Profile] = ()

    def __init__(self, graph: Graph, run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]) -> None:
        self.inputs = {spec.name: spec.dtype for spec in graph.inputs}
        self.outputs = {spec.name: spec.dtype for spec in graph.outputs}
        self.shapes: Shapes = dict.fromkeys((*self.inputs, *self.outputs))
        self._run = run

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Call the function and return the outputs called `names`."""
        found = self._run(feeds)
        return [found[name] for name in names]
