"""`rpln validate`: a bundle is compared once more with the checkpoint that it was made from."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from rpln_export.checkpoint.conversion import Readable, as_transformers
from rpln_export.checkpoint.finding import find_checkpoint
from rpln_export.checkpoint.model import load_model, source_from_plan
from rpln_export.checkpoint.planned_graphs import planned_graphs_from_model
from rpln_export.errors import ValidationError
from rpln_export.plan.choices import NONE
from rpln_export.plan.export_plan import ExportPlan, make_plan
from rpln_export.plan.graphs import logits_of_graph
from rpln_export.steps import Silent, Steps, Watcher
from rpln_export.validation.graphs_under_test import graphs_under_test_from_plan
from rpln_export.validation.proof import Proof, prove
from rpln_export.validation.text_graph import prove_text_graph
from rpln_model.composition import Composition, load_composition
from rpln_runtime.manifest import Manifest, read_manifest
from rpln_runtime.tasks import TASKS, Tensor

COMPUTING: Final = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "position_embedding_type",
    "pad_token_id",
)
"""The fields of a configuration that the outputs depend on, beside the weights."""


def revalidate(
    folder: Path, checkpoint: str | None, watcher: Watcher | None = None, *, revision: str | None = None
) -> Proof:
    """Prove that the bundle in `folder` still equals its `checkpoint`, and return the proof.

    `checkpoint` is a folder, a file of fairseq or a hub id, at `revision`; None means the one that the manifest names.
    Raises ManifestError for a broken bundle, PlanError if the checkpoint is not found, and ValidationError for another
    checkpoint than the bundle's and for a graph that differs.
    """
    steps = Steps(watcher or Silent())
    with ExitStack() as stack:
        with steps.step("load"):
            manifest = read_manifest(folder)
            plan, model = stack.enter_context(original_model(folder, manifest, checkpoint, revision=revision))
        with steps.step("validate") as advance:
            planned_graphs = planned_graphs_from_model(plan, model, mask_token_id=manifest.mask_token_id)
            graphs_under_test = graphs_under_test_from_plan(planned_graphs, plan)
            proof = prove(graphs_under_test, folder, manifest, recipe=plan.recipe, advance=advance)
            proof.check()
            prove_text_graph(folder, manifest)
            return proof


@contextmanager
def original_model(
    folder: Path, manifest: Manifest, checkpoint: str | None, *, revision: str | None = None
) -> Iterator[tuple[ExportPlan, Any]]:
    """Give the plan of the bundle in `folder`, and the model in eager torch that its graphs were traced from.

    For `checkpoint`, `revision` and the errors, see `revalidate`.
    """
    checkpoint = checkpoint or str(find_checkpoint(folder, manifest))
    with as_transformers(checkpoint, task=manifest.task, revision=revision) as readable:
        tie = None if manifest.source.adapter else _ties(folder)  # an adapter may have made two tables of one
        plan = _plan_from_bundle(manifest, readable, revision, tie=tie)
        if source_from_plan(plan).sha256 != manifest.source.sha256:
            raise ValidationError(_other_checkpoint(folder, manifest, checkpoint))
        if changed := list(_changed(load_composition(folder), plan.composition)):
            raise ValidationError(
                f"{checkpoint} has the weights that {folder} was made from, but its config.json says another network: "
                f"{'; '.join(changed)}. Restore config.json, or export again from the one that is right."
            )
        model, _ = load_model(plan)
        yield plan, model


def _other_checkpoint(folder: Path, manifest: Manifest, named: str) -> str:
    """Return the message for a checkpoint whose weights are not those that the bundle was made from."""
    own = manifest.source
    return (
        f"{folder} was made from {own.name} (SHA-256 of its weights: {own.sha256[:8]}...), but you compared it with "
        f"{named}, which has other weights. Run: rpln validate {folder} {own.name}"
    )


def _changed(bundle: Composition, checkpoint: Composition) -> Iterator[str]:
    """Yield what the config.json of a bundle and that of its checkpoint say differently about what is computed."""
    for part in ("decoder", "encoder"):
        own, other = getattr(bundle, part), getattr(checkpoint, part)
        for name in COMPUTING if own and other else ():
            before, now = getattr(own, name, None), getattr(other, name, None)
            if before != now:
                yield f"{name} is {now!r}, and was {before!r} at the export"


def _plan_from_bundle(manifest: Manifest, readable: Readable, revision: str | None, *, tie: bool | None) -> ExportPlan:
    """Return the plan that the bundle's graphs were exported by, as far as its manifest tells."""
    task = TASKS[manifest.task]
    graphs = [graph for graph in manifest.graphs if graph.variant in task.variants]
    return make_plan(
        readable.source,
        origin=readable.origin,
        task=manifest.task,
        precision=manifest.recipe,
        revision=revision,
        inputs=_asked_for(task.optional_inputs, [{tensor.name for tensor in graph.inputs} for graph in graphs]),
        outputs=_asked_for(
            task.optional_outputs, [{tensor.name.split(".")[0] for tensor in graph.outputs} for graph in graphs]
        ),
        variants=[graph.variant for graph in graphs],
        logits=logits_of_graph(graphs[0], task),
        pooling=_pooling(manifest),
        is_decoder=task.generates,
        tie=tie,
        ignore_unexpected=True,  # the export has refused or reported such weights of this checkpoint
    )


def _pooling(manifest: Manifest) -> tuple[str, ...]:
    """Return the choice of --pooling that a bundle was exported with; none where the task offers none."""
    if manifest.sentences and manifest.sentences.poolings:
        return manifest.sentences.poolings
    return (NONE,) if TASKS[manifest.task].outputs_instead else ()


def _ties(folder: Path) -> bool:
    """Return whether the bundle's config says that a language model projects onto its word embeddings."""
    config = load_composition(folder).decoder
    return bool(config.tie_word_embeddings)


def _asked_for(tensors: tuple[Tensor, ...], names: list[set[str]]) -> list[str]:
    """Return the names of the optional tensors that every graph has. Those of a single variant were not asked for."""
    return [tensor.name for tensor in tensors if all(tensor.name in known for known in names)]
