"""A bundle and the checkpoint it was made from, compared once more: after a copy, or with other versions installed."""

from pathlib import Path

from rpln_export.bundle import stress_limits
from rpln_export.checkpoint import load_model, source_from_plan
from rpln_export.errors import ValidationError
from rpln_export.plan import ExportPlan, make_plan
from rpln_export.proof import Proof, prove
from rpln_export.steps import Silent, Steps, Watcher
from rpln_graphs.stress import stress_cases
from rpln_model.checkpoints import load_config
from rpln_runtime.manifest import Graph, Manifest, read_manifest
from rpln_runtime.tasks import TASKS, Tensor


def revalidate(
    folder: Path, checkpoint: str | None, watcher: Watcher | None = None, *, revision: str | None = None
) -> Proof:
    """Prove the bundle in `folder` against `checkpoint` (None: the embedded default), at `revision` of a hub id.

    Raises ManifestError for a broken bundle, ValidationError when the checkpoint is another one, or the graph differs.
    """
    steps = Steps(watcher or Silent())
    with steps.step("load"):
        manifest = read_manifest(folder)
        graph = manifest.graphs[0]
        plan = _plan_from_bundle(folder, manifest, graph, checkpoint, revision)
        if source_from_plan(plan).sha256 != manifest.source.sha256:
            raise ValidationError(
                f"{folder} was made from {manifest.source.name} (SHA-256 {manifest.source.sha256[:8]}...), the weights "
                f"of {plan.source} are others. Name the checkpoint it was made from."
            )
        model = load_model(plan)
    with steps.step("validate") as advance:
        return prove(
            model,
            folder / graph.path,
            outputs=plan.outputs,
            cases=list(stress_cases(plan.inputs, stress_limits(plan.config))),
            recipe=plan.recipe,
            advance=advance,
        )


def _plan_from_bundle(
    folder: Path, manifest: Manifest, graph: Graph, checkpoint: str | None, revision: str | None
) -> ExportPlan:
    task = TASKS[manifest.task]
    return make_plan(
        checkpoint,
        task=manifest.task,
        precision=manifest.recipe,
        revision=revision,
        inputs=_asked_for(task.optional_inputs, [tensor.name for tensor in graph.inputs]),
        outputs=_asked_for(task.optional_outputs, [tensor.name.split(".")[0] for tensor in graph.outputs]),
        is_decoder=load_config(folder).is_decoder,
    )


def _asked_for(tensors: tuple[Tensor, ...], names: list[str]) -> list[str]:
    """The optional tensors among `names`, in the order of `names`."""
    optional = {tensor.name for tensor in tensors}
    return [name for name in dict.fromkeys(names) if name in optional]
