"""load -> trace -> rewrite -> save -> validate -> publish: one export, from checkpoint to proven bundle."""

import dataclasses
from typing import Final

from rpln_export.bundle import describe, write_bundle_files
from rpln_export.calibration import rewrites_from_parts
from rpln_export.checkpoint import load_model, source_from_plan
from rpln_export.destination import check_destination, published
from rpln_export.extras import require_extra
from rpln_export.generation import generation_from_plan
from rpln_export.parts import parts_from_model
from rpln_export.plan import ExportPlan
from rpln_export.proof import prove
from rpln_export.report import Report, report_from_export, summary_from_report
from rpln_export.steps import Silent, Steps, Watcher
from rpln_export.subjects import subjects_from_parts
from rpln_export.tokenizer import load_tokenizer
from rpln_graphs.recipes import apply_recipe_together
from rpln_graphs.save import save_graphs
from rpln_graphs.trace import trace_model
from rpln_runtime.manifest import write_manifest

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
        tokenizer = load_tokenizer(plan.tokenizer, revision=plan.revision, vocab_size=plan.vocab_size)
        model = load_model(plan)
        source = source_from_plan(plan)
        generation = generation_from_plan(plan) if plan.decodes else None
    weights = sum(parameter.nbytes for parameter in model.parameters())
    check_destination(plan.destination, needed=int(weights * plan.recipe.dtype.itemsize / 4 * SPACE_FACTOR))
    parts = parts_from_model(plan, model)
    with steps.step("trace"):
        graphs = [trace_model(part.call.model, part.plan.inputs, part.plan.outputs, opset=plan.opset) for part in parts]
    subjects = subjects_from_parts(parts, plan)
    with steps.step("rewrite"):
        apply_recipe_together(
            rewrites_from_parts(parts, graphs, subjects, tokenizer, plan), plan.recipe, io_dtype=plan.io_dtype
        )
    with published(plan.destination) as folder:
        with steps.step("save"):
            save_graphs({part.plan.path: graph for part, graph in zip(parts, graphs, strict=True)}, folder)
            write_bundle_files(folder, plan, tokenizer)
            manifest = describe(plan, graphs, source, tokenizer, generation)
            write_manifest(folder, manifest)
        with steps.step("validate") as advance:
            proof = prove(subjects, folder, recipe=plan.recipe, advance=advance)
        report = report_from_export(
            plan, graphs, folder, parameters=model.num_parameters(), proof=proof, steps=steps.finished
        )
        report.write(folder)
        write_manifest(folder, dataclasses.replace(manifest, validation=summary_from_report(report)))
    return report
