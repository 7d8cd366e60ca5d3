"""The precision of an export, and the choices that go with it: types of inputs and outputs, the opset."""

import onnx_ir as ir

from rpln_export.errors import PlanError
from rpln_export.plan.choices import choose
from rpln_graphs.recipes import IO_DTYPES, Recipe
from rpln_graphs.trace import DEFAULT_OPSET, NEWEST_OPSET, OLDEST_OPSET


def io_dtype_from_name(name: str, recipe: Recipe) -> ir.DataType:
    """Return the type of float inputs and outputs. Raises PlanError for a type that the graph does not compute in."""
    dtype = choose(IO_DTYPES, name, "I/O type")
    if dtype != ir.DataType.FLOAT and (recipe.quantizes or dtype != recipe.computes_in):
        raise PlanError(
            f"--io-dtype {name} goes with --{name}, but this export computes in {recipe.name}. Leave it out."
        )
    return dtype


def checked_opset(opset: int | None, recipe: Recipe) -> int:
    """Return `opset`, or for None the default one. Raises PlanError for an opset that is not supported."""
    chosen = max(DEFAULT_OPSET, recipe.oldest_opset) if opset is None else opset
    if not OLDEST_OPSET <= chosen <= NEWEST_OPSET:
        raise PlanError(f"opset {chosen} is not supported: choose one from {OLDEST_OPSET} to {NEWEST_OPSET}.")
    if chosen < recipe.oldest_opset:
        raise PlanError(
            f"--opset {chosen} has no operator for the weights of {recipe.name}: choose opset {recipe.oldest_opset} or "
            "newer, or leave --opset out."
        )
    return chosen
