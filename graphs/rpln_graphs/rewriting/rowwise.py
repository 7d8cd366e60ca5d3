"""Operators that treat each row by itself, and which rows of their operands each row of their result is made of.

Rows lie along an axis of the result, and of each operand that has them too. `operands_by_row(node, axis)` returns these
operands by their position, with the axis of the rows in each; any other operand is the same for all rows. It reads only
attributes and shapes, so that it holds for every graph.
"""

from collections.abc import Callable, Mapping
from typing import Final

import onnx_ir as ir

from rpln_graphs.rewriting.values import axis_of, contents, permutation, same_shape, same_size

Operands = dict[int, int]
"""Positions of a node's inputs, each with the axis of the rows in it."""

UNKNOWN_OPERATOR: Final = "{operator} is not known to treat each row by itself ({node})"
UNKNOWN_BROADCAST: Final = "{node} reads {value}, which is not known to be broadcast or not"
OVER_ROWS: Final = "{node} computes over the axis of rows"
OTHER_ROWS: Final = "the rows of {node} are not those of its left operand"
UNCLEAR_EQUATION: Final = "{node} does not name each axis by a letter of its own"
COMPUTED_SHAPE: Final = "the shape that {node} makes is computed"
ROWS_LOST: Final = "{node} does not keep the rows"
NO_LOOKUP: Final = "{node} does not look up rows of a table"
UNKNOWN_SHAPE: Final = "the shape of {value} is not known"


class Obstacle(Exception):  # noqa: N818 # no error, but the place where rows cannot be followed any further
    """The reason why the rows of a node's result are not known to be made of the same rows of its operands."""


def operands_by_row(node: ir.Node, axis: int) -> Operands:
    """Return the operands of `node` that have the rows of its result, with their axes. Raises Obstacle."""
    if node.domain or node.op_type not in ROWWISE:
        operator = f"{node.domain}.{node.op_type}".lstrip(".")
        raise Obstacle(UNKNOWN_OPERATOR.format(operator=operator, node=node.name))
    return ROWWISE[node.op_type](node, axis)


def shape_of(value: ir.Value | None) -> ir.Shape:
    """Return the shape of `value`. Raises Obstacle where it is not known."""
    if value is None or value.shape is None:
        raise Obstacle(UNKNOWN_SHAPE.format(value="an input" if value is None else value.name))
    return value.shape


def _elementwise(node: ir.Node, axis: int) -> Operands:
    """Return all operands but those that are broadcast along `axis`."""
    return _broadcast(node, range(len(node.inputs)), axis)


def _broadcast(node: ir.Node, positions: range, axis: int) -> Operands:
    """Return the operands at `positions` that are not broadcast along `axis`."""
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
            raise Obstacle(UNKNOWN_BROADCAST.format(node=node.name, value=value.name))
        operands[position] = own
    return operands


def _over_other_axes(default: int, *, to_the_end: bool) -> Callable[[ir.Node, int], Operands]:
    """Return the function for an operator that computes over the axis in its attribute, or over all axes from it on."""

    def operands(node: ir.Node, axis: int) -> Operands:
        over = axis_of(node, default=default, rank=len(shape_of(node.outputs[0])))
        if over == axis or (to_the_end and over < axis):
            raise Obstacle(OVER_ROWS.format(node=node.name))
        return {0: axis}

    return operands


def _matmul(node: ir.Node, axis: int) -> Operands:
    """Return the left operand for rows of a matrix, and both where matrices are multiplied one by one."""
    left, rank = len(shape_of(node.inputs[0])), len(shape_of(node.outputs[0]))
    if left >= 2 and axis == rank - 2:
        return {0: left - 2}
    if axis < rank - 2:
        return _broadcast(node, range(2), axis)
    raise Obstacle(OTHER_ROWS.format(node=node.name))


def _einsum(node: ir.Node, axis: int) -> Operands:
    """Return every operand that has the letter of the rows: `bhtk,tsk->bhts` has t in both."""
    left, arrow, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in left or any(term.count(result[axis]) > 1 for term in terms):
        raise Obstacle(UNCLEAR_EQUATION.format(node=node.name))
    return {position: term.index(result[axis]) for position, term in enumerate(terms) if result[axis] in term}


def _transpose(node: ir.Node, axis: int) -> Operands:
    """Return the input, with the axis that becomes `axis`."""
    return {0: permutation(node)[axis]}


def _reshape(node: ir.Node, axis: int) -> Operands:
    """Return the input if all axes up to that of the rows stay, and the number of rows is not written down."""
    before, after, target = shape_of(node.inputs[0]), shape_of(node.outputs[0]), contents(node.inputs[1])
    if target is None:
        raise Obstacle(COMPUTED_SHAPE.format(node=node.name))
    kept = len(before) > axis and same_shape(before[: axis + 1], after[: axis + 1])
    if not kept or target[axis] > 0 or node.attributes.get_int("allowzero", 0):
        raise Obstacle(ROWS_LOST.format(node=node.name))
    return {0: axis}


def _lookup(node: ir.Node, axis: int) -> Operands:
    """Return the indices, for each of which a Gather looks up a row of its table."""
    table, indices = shape_of(node.inputs[0]), shape_of(node.inputs[1])
    if axis_of(node, default=0, rank=len(table)) != 0 or axis >= len(indices):
        raise Obstacle(NO_LOOKUP.format(node=node.name))
    return {1: axis}


ELEMENTWISE: Final = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Neg", "Abs", "Sqrt", "Exp", "Erf", "Tanh", "Sigmoid"),
        *("Gelu", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Mish", "Swish", "Softplus", "Softsign"),
        *("Clip", "HardSigmoid", "HardSwish", "ThresholdedRelu", "Cast", "Identity", "Where"),
        *("Not", "And", "Or", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
    }
)
ROWWISE: Final[Mapping[str, Callable[[ir.Node, int], Operands]]] = {
    **dict.fromkeys(sorted(ELEMENTWISE), _elementwise),
    "LayerNormalization": _over_other_axes(-1, to_the_end=True),
    "Softmax": _over_other_axes(-1, to_the_end=False),
    "MatMul": _matmul,
    "Einsum": _einsum,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Gather": _lookup,
}
