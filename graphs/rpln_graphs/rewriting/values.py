"""Questions about the values of a graph: what a constant holds, which sizes are equal, who makes and reads a value."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

Size = int | ir.SymbolicDim
Sizes = ir.Shape | Sequence[Size]


# -- constants -------------------------------------------------------------------------------------------------------


def is_constant(value: ir.Value | None) -> bool:
    """Return whether `value` is stored in the graph and cannot be overridden by an input."""
    return value is not None and value.is_initializer() and not value.is_graph_input()


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """Return the tensor of an initializer. A tensor that passes changed is computed only when it is read."""
    assert value.const_value is not None
    return value.const_value


def contents(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the array that a constant holds, or None if `value` is not constant."""
    return tensor_of(value).numpy() if value is not None and is_constant(value) else None


def number(value: ir.Value | None) -> float | None:
    """Return the number that a constant of one element holds, or None if `value` is anything else."""
    if value is None or not is_constant(value) or tensor_of(value).size != 1:
        return None
    return float(tensor_of(value).numpy().item())


# -- sizes -----------------------------------------------------------------------------------------------------------


def rank(value: ir.Value | None) -> int | None:
    """Return the number of axes of `value`, or None if it is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def same_size(one: Size, other: Size) -> bool:
    """Return whether two axes are known to have one size; batch*choices is choices*batch."""
    if isinstance(one, int) or isinstance(other, int):
        return one == other
    if one.value is None or other.value is None:
        return False
    return one == other or one.simplify() == other.simplify()


def same_shape(one: Sizes | None, other: Sizes | None) -> bool:
    """Return whether two shapes are known and have the same sizes."""
    return one is not None and other is not None and len(one) == len(other) and all(map(same_size, one, other))


def axis_of(node: ir.Node, *, default: int, rank: int) -> int:
    """Return the `axis` attribute of `node`, counted from the front of a value with `rank` axes."""
    axis = node.attributes.get_int("axis", default)
    return axis + rank if axis < 0 else axis


# -- neighbours ------------------------------------------------------------------------------------------------------


def operand(node: ir.Node, position: int) -> ir.Value:
    """Return the input of `node` at `position`, which must not be left out."""
    value = node.inputs[position]
    assert value is not None
    return value


def other_operand(node: ir.Node, value: ir.Value) -> ir.Value:
    """Return the input of a node with two inputs that is not `value`."""
    (other,) = (candidate for candidate in node.inputs if candidate is not value)
    assert other is not None
    return other


def constant_operand(node: ir.Node, *, rank: int) -> ir.Value | None:
    """Return the input of a node with two inputs that is a float constant of this rank.

    Return None if neither input is such a constant, or if both are.
    """
    found = [
        value
        for value in node.inputs
        if value is not None and is_constant(value) and value.shape is not None and len(value.shape) == rank
    ]
    if len(found) != 1 or len(node.inputs) != 2:
        return None
    return found[0] if found[0].dtype is not None and found[0].dtype.is_floating_point() else None


def maker(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """Return the node that computes `value` if it is one of ONNX's `operators`, else None."""
    node = None if value is None else value.producer()
    return node if node is not None and not node.domain and node.op_type in operators else None


def sole_reader(value: ir.Value) -> ir.Node | None:
    """Return the only node that reads `value`; None if it is read several times, never, or is an output."""
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def permutation(node: ir.Node) -> tuple[int, ...]:
    """Return the `perm` attribute of a Transpose; empty if the node reverses all axes."""
    return tuple(node.attributes.get_ints("perm", ()))
