"""Operators that treat each row by itself: which rows of their operands the rows of their result are made of.

Rows lie along an axis, of a result and of the operands that have it too: `ROWWISE[op_type](node, axis)` gives these
operands by position, each with its axis. An operand that is not named has one for all rows. Structural: read off
attributes and shapes, so that it holds for any graph.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Size = int | ir.SymbolicDim
Operands = dict[int, int]
"""Positions of a node's inputs, each with the axis of the rows in it."""


class Obstacle(Exception):  # noqa: N818 # no error, but where whoever follows the rows comes to stand
    """Why the rows of a node's result are not known to be made of the same rows of its operands."""


def operands_by_row(node: ir.Node, axis: int) -> Operands:
    """The operands of `node` that have the rows of its result, and where. Raises Obstacle."""
    if node.domain or node.op_type not in ROWWISE:
        operator = f"{node.domain}.{node.op_type}".lstrip(".")
        raise Obstacle(f"{operator} is not known to treat each row by itself ({node.name})")
    return ROWWISE[node.op_type](node, axis)


def _elementwise(node: ir.Node, axis: int) -> Operands:
    return _broadcast(node, range(len(node.inputs)), axis)


def _broadcast(node: ir.Node, positions: range, axis: int) -> Operands:
    shape = shape_of(node.outputs[0])
    operands = {}
    for position in positions:
        value = node.inputs[position]
        if value is None:
            continue
        own = axis - len(shape) + len(shape_of(value))
        if own < 0 or shape_of(value)[own] == 1:
            continue
        if not same_size(shape_of(value)[own], shape[axis]):
            raise Obstacle(f"{node.name} reads {value.name}, of which it is not known whether it is broadcast")
        operands[position] = own
    return operands


def _over_other_axes(default: int, *, to_the_end: bool) -> Callable[[ir.Node, int], Operands]:
    """Of an operator over the axis that its attribute names, or from that axis on: not over the rows."""

    def operands(node: ir.Node, axis: int) -> Operands:
        over = axis_of(node, default=default, rank=len(shape_of(node.outputs[0])))
        if over == axis or (to_the_end and over < axis):
            raise Obstacle(f"{node.name} goes over the axis of rows")
        return {0: axis}

    return operands


def _matmul(node: ir.Node, axis: int) -> Operands:
    """The rows of the left matrix, or matrices that are multiplied one by one."""
    left, rank = len(shape_of(node.inputs[0])), len(shape_of(node.outputs[0]))
    if left >= 2 and axis == rank - 2:
        return {0: left - 2}
    if axis < rank - 2:
        return _broadcast(node, range(2), axis)
    raise Obstacle(f"the rows of {node.name} are not those of its left side")


def _einsum(node: ir.Node, axis: int) -> Operands:
    """Every operand that has the letter of the rows: `bhtk,tsk->bhts` has t in both."""
    left, arrow, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in left or any(term.count(result[axis]) > 1 for term in terms):
        raise Obstacle(f"{node.name} does not name each axis by a letter of its own")
    return {position: term.index(result[axis]) for position, term in enumerate(terms) if result[axis] in term}


def _transpose(node: ir.Node, axis: int) -> Operands:
    return {0: tuple(node.attributes["perm"].as_ints())[axis]}


def _reshape(node: ir.Node, axis: int) -> Operands:
    """Rows stay rows where all axes up to theirs are as before and their number is not written down."""
    before, after, target = shape_of(node.inputs[0]), shape_of(node.outputs[0]), node.inputs[1]
    if target is None or not target.is_initializer():
        raise Obstacle(f"the shape that {node.name} makes is computed")
    kept = len(before) > axis and all(map(same_size, before[: axis + 1], after[: axis + 1]))
    if not kept or contents(target)[axis] > 0 or node.attributes.get_int("allowzero", 0):
        raise Obstacle(f"{node.name} does not keep the rows")
    return {0: axis}


def _lookup(node: ir.Node, axis: int) -> Operands:
    """A table's rows for an array of indices."""
    if axis_of(node, default=0, rank=len(shape_of(node.inputs[0]))) != 0 or axis >= len(shape_of(node.inputs[1])):
        raise Obstacle(f"{node.name} is no lookup of rows")
    return {1: axis}


ELEMENTWISE: Final = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Neg", "Abs", "Sqrt", "Exp", "Erf", "Tanh", "Sigmoid", "Clip"),
    *("Gelu", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Mish", "Swish", "Softplus", "Softsign"),
    *("HardSigmoid", "HardSwish", "ThresholdedRelu", "Cast", "Identity", "Where"),
    *("Not", "And", "Or", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
)
ROWWISE: Final[Mapping[str, Callable[[ir.Node, int], Operands]]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    "LayerNormalization": _over_other_axes(-1, to_the_end=True),
    "Softmax": _over_other_axes(-1, to_the_end=False),
    "MatMul": _matmul,
    "Einsum": _einsum,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Gather": _lookup,
}


# -- shapes ----------------------------------------------------------------------------------------------------------


def shape_of(value: ir.Value | None) -> ir.Shape:
    """The shape of `value`. Raises Obstacle where it is not known."""
    if value is None or value.shape is None:
        raise Obstacle(f"the shape of {value.name if value is not None else 'an input'} is not known")
    return value.shape


def same_size(one: Size, other: Size) -> bool:
    """Whether two sizes are known to be the same; one without a name equals no other."""
    return one == other and (isinstance(one, int) or one.value is not None)


def axis_of(node: ir.Node, *, default: int, rank: int) -> int:
    """The node's axis, counted from the front."""
    axis = node.attributes.get_int("axis", default)
    return axis + rank if axis < 0 else axis


def contents(value: ir.Value | None) -> NDArray[Any]:
    """What an initializer holds; an empty array of anything else."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return np.empty(0)
    return value.const_value.numpy()
