"""load -> trace -> rewrite -> save -> validate -> publish: one export, from checkpoint to proven bundle."""

import dataclasses
import itertools
from typing import Final

from rpln_export.bundle import describe, network_from_config, stress_limits, write_bundle_files
from rpln_export.calibration import calibration_feeds
from rpln_export.checkpoint import load_model, source_from_plan
from rpln_export.destination import check_destination, published
from rpln_export.extras import require_extra
from rpln_export.plan import ExportPlan
from rpln_export.proof import prove
from rpln_export.report import Report, report_from_export, summary_from_report
from rpln_export.steps import Silent, Steps, Watcher
from rpln_export.tokenizer import load_tokenizer
from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.recipes import apply_recipe
from rpln_graphs.save import save_graph
from rpln_graphs.stress import stress_cases
from rpln_graphs.trace import trace_model
from rpln_runtime.manifest import write_manifest

GRAPH_NAME: Final = "model.onnx"
SPACE_FACTOR: Final = 1.1
"""How much larger than its weights a bundle may be."""


def export(plan: ExportPlan, watcher: Watcher | None = None) -> Report:
    """Carry out `plan` and return its report; the bundle is at `plan.destination` when this returns.

    `watcher` is told of each step. Raises an RplnError or RplnModelError that says what to do, ValidationError among
    them; nothing is then left at the destination, and an older bundle there is untouched.
    """
    require_extra("cpu")
    check_destination(plan.destination)
    steps = Steps(watcher or Silent())
    with steps.step("load"):
        tokenizer = load_tokenizer(plan.tokenizer, revision=plan.revision, vocab_size=plan.config.vocab_size)
        model = load_model(plan)
        source = source_from_plan(plan)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    check_destination(plan.destination, needed=int(weights * plan.recipe.dtype.itemsize / 4 * SPACE_FACTOR))
    with steps.step("trace"):
        graph = trace_model(
            model,
            (*plan.inputs, *plan.variant.inputs),
            (*plan.outputs, *plan.variant.outputs),
            opset=plan.opset,
        )
    cases = list(stress_cases(plan.inputs, stress_limits(plan.config)))
    with steps.step("rewrite"):
        apply_recipe(
            graph,
            plan.recipe,
            network_from_config(plan.config),
            io_dtype=plan.io_dtype,
            measure=lambda graph: measure_ranges(
                graph, itertools.chain((case.feeds for case in cases), calibration_feeds(tokenizer, model, plan))
            ),
        )
    with published(plan.destination) as folder:
        with steps.step("save"):
            save_graph(graph, folder / GRAPH_NAME)
            write_bundle_files(folder, plan, tokenizer)
            manifest = describe(plan, graph, source, tokenizer, path=GRAPH_NAME)
            write_manifest(folder, manifest)
        with steps.step("validate") as advance:
            proof = prove(
                model, folder / GRAPH_NAME, outputs=plan.outputs, cases=cases, recipe=plan.recipe, advance=advance
            )
        report = report_from_export(
            plan, graph, folder, parameters=model.num_parameters(), proof=proof, steps=steps.finished
        )
        report.write(folder)
        write_manifest(folder, dataclasses.replace(manifest, validation=summary_from_report(report)))
    return report
