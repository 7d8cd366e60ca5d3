"""load -> trace -> rewrite -> optimize -> save -> validate -> compile -> publish: from checkpoint to proven bundle."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import onnx_ir as ir

from rpln_export.bundle.engines import check_engines, export_engines, graphs_as_described
from rpln_export.bundle.generation import generation_from_plan
from rpln_export.bundle.manifest import axis_limits, describe, write_bundle_files
from rpln_export.bundle.report import Report, report_from_export, summary_from_report
from rpln_export.bundle.text_graph import describe_text_graph, text_graphs
from rpln_export.checkpoint.byte_pairs import byte_pairs_from_tokenizer
from rpln_export.checkpoint.model import load_model, source_from_plan
from rpln_export.checkpoint.planned_graphs import PlannedGraph, planned_graphs_from_model
from rpln_export.checkpoint.tokenizer import load_tokenizer
from rpln_export.destination import check_destination, published
from rpln_export.errors import FormError, NearMissError, ValidationError
from rpln_export.extras import require_extra
from rpln_export.forms.choice import Choice, Measurements, check_effect, choose_forms, compiled_graphs, measure_forms
from rpln_export.plan.export_plan import AUTO, NONE, ExportPlan
from rpln_export.steps import Silent, Steps, Watcher
from rpln_export.validation.calibration import rewrites_from_parts
from rpln_export.validation.graphs_under_test import graphs_under_test_from_plan
from rpln_export.validation.proof import Proof, prove
from rpln_export.validation.text_graph import prove_text_graph
from rpln_graphs.recipes import apply_recipe_together
from rpln_graphs.save import save_graphs
from rpln_graphs.trace import trace_model
from rpln_runtime.manifest import Manifest, write_manifest

_Result = TypeVar("_Result")

SPACE_FACTOR: Final = 1.1
"""How much larger than its weights a bundle may be."""


def export(plan: ExportPlan, watcher: Watcher | None = None) -> Report:
    """Carry out `plan` and return its report; the bundle is at `plan.destination` when this returns.

    `watcher` is told of each step. Raises an RplnError or RplnModelError that says what to do, ValidationError among
    them; nothing is then left at the destination, and an older bundle there is untouched. Where `auto` misses by a
    hair, rounding of the folded weights may be why: the export then runs once more without the folds, and says so.
    """
    try:
        return _export(plan, watcher or Silent())
    except NearMissError as refused:
        if plan.optimize != AUTO or not plan.folds or plan.pack_padding:
            raise
        because = f"the graph as it was traced, since with the exact folds it came out {refused.reason}"
        try:
            return _export(dataclasses.replace(plan, optimize=NONE, unfolded_because=because), watcher or Silent())
        except ValidationError:
            raise refused from None


def _export(plan: ExportPlan, watcher: Watcher) -> Report:
    require_extra("cpu")
    check_destination(plan.destination)
    check_engines(plan.engines, graphs_as_described(plan), axis_limits(plan))
    steps = Steps(watcher)
    with steps.step("load"):
        tokenizer = load_tokenizer(plan.tokenizer, revision=plan.revision, vocab_size=plan.vocab_size)
        model = load_model(plan)
        source = source_from_plan(plan)
        generation = generation_from_plan(plan) if plan.decodes else None
        byte_pairs = byte_pairs_from_tokenizer(tokenizer, plan) if plan.with_tokenizer else None
    weights = sum(parameter.nbytes for parameter in model.parameters())
    check_destination(plan.destination, needed=int(weights * plan.recipe.dtype.itemsize / 4 * SPACE_FACTOR))
    planned_graphs = planned_graphs_from_model(plan, model, mask_token_id=tokenizer.mask_token_id)
    check_effect(plan, planned_graphs)
    with steps.step("trace"):
        graphs = [
            trace_model(planned.call.model, planned.plan.inputs, planned.plan.outputs, opset=plan.opset)
            for planned in planned_graphs
        ]
    graphs_under_test = graphs_under_test_from_plan(planned_graphs, plan)
    with steps.step("rewrite"):
        apply_recipe_together(
            rewrites_from_parts(planned_graphs, graphs, graphs_under_test, tokenizer, plan),
            plan.recipe,
            folds=plan.folds,
            io_dtype=plan.io_dtype,
            allow_partial=plan.allow_partial,
        )
        graphs = compiled_graphs(plan, planned_graphs, graphs)
    with steps.step("optimize") as advance:
        measurements = measure_forms(plan, planned_graphs, graphs, advance)
    with published(plan.destination) as folder:

        def attempt(choice: Choice) -> tuple[Manifest, Proof]:
            with steps.step("save"):
                for earlier in folder.glob("*.onnx*"):
                    earlier.unlink()
                models = {planned.plan.path: graph for planned, graph in zip(planned_graphs, graphs, strict=True)}
                models |= choice.models
                models |= text_graphs(plan, byte_pairs, models, choice)
                save_graphs(models, folder)
                describe_text_graph(folder, models)
                manifest = describe(plan, graphs, source, tokenizer, generation=generation, choice=choice)
                write_manifest(folder, manifest)
            with steps.step("validate") as advance:
                proof = prove(graphs_under_test, folder, recipe=plan.recipe, advance=advance)
                prove_text_graph(folder)
                return manifest, proof

        write_bundle_files(folder, plan, tokenizer)
        choice, (manifest, proof) = _first_proven(plan, planned_graphs, graphs, measurements, attempt)
        with steps.step("compile") as advance:
            engines = export_engines(plan.engines, folder, advance, allow_partial=plan.allow_partial)
        report = report_from_export(
            plan,
            graphs,
            folder,
            parameters=model.num_parameters(),
            proof=proof,
            steps=steps.finished,
            choice=choice,
            engines=engines,
        )
        report.write(folder)
        write_manifest(folder, dataclasses.replace(manifest, validation=summary_from_report(report)))
    return report


def _first_proven(
    plan: ExportPlan,
    planned_graphs: Sequence[PlannedGraph],
    graphs: Sequence[ir.Model],
    measurements: Measurements,
    attempt: Callable[[Choice], _Result],
) -> tuple[Choice, _Result]:
    """The fastest forms that `attempt` finds equal to eager torch, the standard one being the last.

    One that was asked for by name has no second.
    """
    while True:
        choice = choose_forms(plan, planned_graphs, graphs, measurements)
        try:
            return choice, attempt(choice)
        except FormError as refused:
            is_last = plan.optimize != AUTO or plan.pack_padding or measurements.refused
            if is_last and not measurements.candidates:
                raise
            measurements = measurements.without_winner(refused.provider, refused.reason)
