"""The pipeline of an export: load -> trace -> rewrite -> optimize -> save -> validate -> compile -> publish.

The command has made the plan before (rpln_export.plan.export_plan). docs/architecture.md goes through the steps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx_ir as ir

from rpln_export.bundle.engines import export_engines
from rpln_export.bundle.manifest import manifest_from_export, write_bundle_files
from rpln_export.bundle.pages.page import write_page
from rpln_export.bundle.report import Report, report_from_export, summary_from_report
from rpln_export.bundle.text_graph import text_graphs, write_text_graph_description
from rpln_export.checkpoint.loading import Checkpoint, load_checkpoint
from rpln_export.checkpoint.planned_graphs import TracedGraph, planned_graphs_from_model
from rpln_export.destination import check_destination, published
from rpln_export.forms.choice import Choice, choose_forms, has_another_form, measure_forms
from rpln_export.forms.graph_forms import GraphForms
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.quantization.metric import EvaluationData
from rpln_export.quantization.quantize import Quantization, check_quantized, quantize
from rpln_export.steps import Silent, Steps, Watcher
from rpln_export.validation.calibration import rewrites_from_graphs
from rpln_export.validation.graphs_under_test import GraphUnderTest, graphs_under_test_from_plan
from rpln_export.validation.proof import Proof, prove
from rpln_export.validation.text_graph import prove_text_graph
from rpln_graphs.recipes import apply_recipe_together
from rpln_graphs.save import save_graphs
from rpln_graphs.trace import trace_model
from rpln_runtime.manifest import Manifest, files_of_folder, write_manifest

SPACE_FACTOR: Final = 1.1
"""The most room that a graph takes, relative to the size of its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedCheckpoint:
    """A checkpoint with its traced graphs, the cases that prove a bundle of them, and any evaluation data."""

    checkpoint: Checkpoint
    graphs: Sequence[TracedGraph]
    under_test: Sequence[GraphUnderTest]
    data: EvaluationData | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Graphs that were saved to the bundle's folder: how they were quantized, their forms chosen, and their proof."""

    graphs: Sequence[GraphForms]
    choice: Choice
    manifest: Manifest
    proof: Proof
    quantization: Quantization | None


def export(plan: ExportPlan, watcher: Watcher | None = None) -> Report:
    """Carry out `plan` and return its report; the bundle is at `plan.destination` when this returns.

    `watcher` is told of each step. Raises an RplnError or RplnModelError that says what to do; ValidationError is one
    of them. Nothing is then left at the destination, and an older bundle there is untouched.
    """
    steps = Steps(watcher or Silent())
    check_destination(plan.destination)
    with steps.step("load"):
        checkpoint = load_checkpoint(plan)
    check_destination(plan.destination, needed=_space(plan, checkpoint.parameters))
    with steps.step("trace"):
        traced = _trace(plan, checkpoint)
    with published(plan.destination) as folder:
        write_bundle_files(folder, plan, checkpoint.tokenizer)
        attempt = _attempt(plan, traced, folder, steps)
        refusal = attempt.proof.refusal
        if refusal and refusal.near and plan.may_leave_out_folds:
            # Rounding of the folded weights may be why.
            because = f"the graph as it was traced, because with the exact folds it is {refusal.reason}"
            unfolded = _attempt(plan.without_folds(because), traced, folder, steps)
            attempt = attempt if unfolded.proof.refusal else unfolded
        attempt.proof.check()
        prove_text_graph(folder, attempt.manifest)
        return _finish(plan, traced, attempt, folder, steps)


def _space(plan: ExportPlan, parameters: int) -> int:
    """Return the bytes that an export writes: a bundle and, to prove a type lower than fp32, a copy of it in fp32."""
    proven_in = 0 if plan.recipe.computes_in == ir.DataType.FLOAT else ir.DataType.FLOAT.itemsize
    stores_in = ir.DataType.FLOAT if plan.recipe.quantizes else plan.recipe.stores_in  # embeddings stay as they are
    return int(parameters * (stores_in.itemsize + proven_in) * SPACE_FACTOR)


def _trace(plan: ExportPlan, checkpoint: Checkpoint) -> TracedCheckpoint:
    """Return an ONNX graph for each graph of the plan, and the stress set that they are proven on."""
    planned_graphs = planned_graphs_from_model(plan, checkpoint.model, mask_token_id=checkpoint.tokenizer.mask_token_id)
    data = EvaluationData(plan.gate.data, plan, checkpoint, planned_graphs) if plan.gate.data else None
    graphs = [
        TracedGraph(
            planned=planned,
            model=trace_model(
                planned.call.model, planned.plan.inputs, planned.plan.outputs, opset=plan.opset, trace=plan.trace
            ),
        )
        for planned in planned_graphs
    ]
    under_test = graphs_under_test_from_plan(planned_graphs, plan)
    return TracedCheckpoint(checkpoint=checkpoint, graphs=graphs, under_test=under_test, data=data)


def _attempt(plan: ExportPlan, traced: TracedCheckpoint, folder: Path, steps: Steps) -> Attempt:
    """Rewrite, save and prove the graphs, and return them in the fastest forms that are equal to eager torch.

    The standard form is tried last. Where it is not equal either, the attempt that is returned holds the refusal.
    """
    with steps.step("rewrite"):
        rewritten = _rewrite(plan, traced)
    quantization: Quantization | None = None
    if plan.recipe.quantizes:
        with steps.step("quantize") as advance:
            # The last graphs under test are those of the whole task.
            quantization = quantize(
                rewritten,
                traced.graphs,
                traced.under_test[-1],
                traced.checkpoint.tokenizer,
                plan,
                data=traced.data,
                advance=advance,
            )
        plan = plan.with_forms(quantization.contexts)
    contexts = quantization.contexts if quantization else {}
    graphs = [GraphForms(graph, plan, contexts=contexts) for graph in rewritten]
    if quantization is not None:
        check_quantized(graphs[0].model, plan.recipe.standard)
    with steps.step("optimize") as advance:
        measurements = measure_forms(plan, graphs, advance)
    while True:
        choice = choose_forms(plan, graphs, measurements)
        with steps.step("save") as advance:
            manifest = _save(plan, traced.checkpoint, graphs, choice, folder, advance=advance)
        with steps.step("validate") as advance:
            models = _models(graphs, choice)
            proof = prove(
                traced.under_test, folder, manifest, recipe=plan.recipe, advance=advance, models=models, drifts=True
            )
        refusal = proof.refusal
        if refusal is None or refusal.provider is None or not has_another_form(plan, measurements):
            return Attempt(graphs=graphs, choice=choice, manifest=manifest, proof=proof, quantization=quantization)
        measurements = measurements.without_fastest(refusal.provider, refusal.reason)


def _rewrite(plan: ExportPlan, traced: TracedCheckpoint) -> list[TracedGraph]:
    """Return copies of the traced graphs after the folds and the recipe's passes. They share the weights."""
    copies = [TracedGraph(planned=graph.planned, model=graph.model.clone()) for graph in traced.graphs]
    apply_recipe_together(
        rewrites_from_graphs(copies, traced.under_test, traced.checkpoint.tokenizer, plan),
        plan.recipe,
        folds=plan.folds,
        io_dtype=plan.io_dtype,
        allow_partial=plan.allow_partial,
    )
    return copies


def _save(
    plan: ExportPlan,
    checkpoint: Checkpoint,
    graphs: Sequence[GraphForms],
    choice: Choice,
    folder: Path,
    *,
    advance: Callable[[int, int], None],
) -> Manifest:
    """Write the graphs to the bundle's folder, in place of those of an earlier attempt, and return the manifest."""
    for earlier in folder.glob("*.onnx*"):
        earlier.unlink()
    manifest = manifest_from_export(plan, checkpoint, graphs, choice)
    models = _models(graphs, choice)
    models |= text_graphs(plan, checkpoint.byte_pairs, models, choice, longest_text=manifest.longest_text)
    save_graphs(models, folder, on_bytes=advance)
    write_text_graph_description(folder, models)
    return dataclasses.replace(manifest, files=files_of_folder(folder))


def _models(graphs: Sequence[GraphForms], choice: Choice) -> dict[str, ir.Model]:
    """Return the graphs of the bundle in all their forms, by their paths; graphs from texts are not among them."""
    return {graph.planned.plan.path: graph.model for graph in graphs} | dict(choice.models)


def _finish(plan: ExportPlan, traced: TracedCheckpoint, attempt: Attempt, folder: Path, steps: Steps) -> Report:
    """Add engines, the report and the manifest to the bundle, and return the report."""
    with steps.step("compile") as advance:
        engines = export_engines(plan.engines, folder, attempt.manifest, advance, allow_partial=plan.allow_partial)
    with steps.step("report"):
        report = report_from_export(
            plan,
            traced.graphs,
            attempt.graphs,
            folder,
            parameters=traced.checkpoint.model.num_parameters(),
            left_out=traced.checkpoint.left_out,
            tokenizer_notes=traced.checkpoint.notes,
            proof=attempt.proof,
            quantization=attempt.quantization,
            steps=tuple(steps.finished),
            choice=attempt.choice,
            engines=engines,
        )
        report.write(folder)
        write_page(report, folder)
        manifest = dataclasses.replace(attempt.manifest, validation=summary_from_report(report))
        write_manifest(folder, manifest, known=manifest.files)
    return report
