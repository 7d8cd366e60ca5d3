"""The form that was asked for, and whether the choices of a form contradict each other or change nothing.

AUTO measures the forms and keeps the fastest; NONE keeps the graph as it was traced, without the exact folds.
"""

from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from rpln_export.errors import PlanError
from rpln_export.plan.choices import AUTO, NONE, choose
from rpln_export.plan.targets import Target
from rpln_export.plan.workloads import DEFAULT_WORKLOAD, WORKLOADS, Workload, workload_from_file
from rpln_graphs.forms import STANDARD, Form, reasons_without_effect
from rpln_graphs.recipes import Recipe
from rpln_graphs.rewriting.traits import GraphTraits


def form_from_choice(optimize: str, target: Target, recipe: Recipe, *, pack_padding: bool) -> Form:
    """Return the form that the user named, or the default one of the `target` for the `recipe`.

    Raises PlanError for a name that is no form's, and for a recipe that has no packed form where one is asked for.
    """
    form = choose({AUTO: None, NONE: recipe.standard, **recipe.forms}, optimize, "--optimize")
    if form is not None:
        return form
    if pack_padding:
        packed = next((form for form in recipe.forms.values() if form.packs), None)
        if packed is None:
            raise PlanError(f"--pack-padding does not go with {recipe.name}, which has no packed form. Leave it out.")
        return packed
    return recipe.standard if recipe.quantizes else target.default


def workload_from_choice(name: str | None, path: Path | None) -> Workload:
    """Return the row of WORKLOADS called `name`, or the workload in the file `path`. Raises PlanError for both."""
    if name and path:
        raise PlanError("--workload and --workload-file both name what forms are measured on. Leave one of them out.")
    return workload_from_file(path) if path else choose(WORKLOADS, name or DEFAULT_WORKLOAD, "workload")


def check_optimization(
    optimize: str, target: Target, recipe: Recipe, *, pack_padding: bool, generates: bool, workload_given: bool
) -> None:
    """Refuse choices of a form that contradict each other. Raises PlanError.

    `generates` says whether the task generates text, and `workload_given` whether the user named a workload.
    """
    form = choose({AUTO: None, NONE: None, **recipe.forms}, optimize, "--optimize")
    if target.compiled and (pack_padding or (form is not None and (form.packs or not form.standard))):
        raise PlanError(
            f"--target {target.name} needs a model.onnx in which all operators are standard and no shape depends on "
            f"values. Choose another form than {'a packed one' if form is None else form.name}, or --target "
            "cpu or cuda."
        )
    if pack_padding and form is not None and not form.packs:
        raise PlanError(
            f"--pack-padding asks for a packed form, but --optimize {form.name} asks for another. Leave one of them "
            "out."
        )
    if pack_padding and generates:
        raise PlanError("--pack-padding is for encoders: the steps of a decoder have no padding. Leave it out.")
    if pack_padding and optimize == NONE:
        raise PlanError(
            "--pack-padding asks for a packed form, but --optimize none keeps the graph as it was traced. Leave one of "
            "them out."
        )
    if workload_given and optimize != AUTO:
        raise PlanError(
            f"--workload and --workload-file name what --optimize auto measures on, but --optimize {optimize} measures "
            "nothing. Leave one of them out."
        )
    if target.name == "cpu" and recipe.computes_in == ir.DataType.BFLOAT16:
        raise PlanError(
            "--target cpu does not go with --bf16: ONNX Runtime has no bf16 kernels for CPUs. Choose another target or "
            "another precision."
        )


def check_effect(form: Form, graphs: Iterable[GraphTraits]) -> None:
    """Refuse a form that was asked for and changes none of the graphs. Raises PlanError with the reasons."""
    reasons = [reasons_without_effect(form, traits) for traits in graphs]
    if form is not STANDARD and all(reasons):
        found = dict.fromkeys(reason for rows in reasons for reason in rows)
        raise PlanError(
            f"the form {form.name} changes nothing here: {'; '.join(found)}. Choose another with --optimize."
        )
