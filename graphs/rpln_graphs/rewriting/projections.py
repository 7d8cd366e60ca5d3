"""What a linear layer looks like in a graph: Add(MatMul(x, weight), bias), with constants that nobody else reads."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.rewriting.initializers import change_initializer

NO_PROJECTION: Final = "is no MatMul with a weight, followed by an Add with a bias, both constant and read only there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """x [..., D] -> x weight [D, N] + bias [N]. Its result is the first output of `add`."""

    matmul: ir.Node
    add: ir.Node
    weight: ir.Value
    bias: ir.Value

    @property
    def result(self) -> ir.Value:
        """What it computes, [..., N]."""
        return self.add.outputs[0]

    @property
    def width(self) -> int:
        """N."""
        assert self.bias.const_value is not None
        return self.bias.const_value.shape.numpy()[0]


def projection_from_matmul(matmul: ir.Node) -> Projection | None:
    """The linear layer that `matmul` is the product of; None where it is not one that may be changed."""
    if matmul.op_type != "MatMul" or matmul.domain:
        return None
    weight, add = matmul.inputs[1], sole_reader(matmul.outputs[0])
    if add is None or add.op_type != "Add":
        return None
    bias = other_operand(add, matmul.outputs[0])
    if not _is_own_constant(weight, rank=2) or not _is_own_constant(bias, rank=1):
        return None
    assert weight is not None
    assert bias is not None
    return Projection(matmul=matmul, add=add, weight=weight, bias=bias) if _fits(weight, bias) else None


def projection_from_result(value: ir.Value | None) -> Projection | None:
    """The linear layer that computes `value`, whoever else reads that."""
    add = None if value is None else value.producer()
    if add is None or add.op_type != "Add":
        return None
    products = [operand.producer() for operand in add.inputs if operand is not None]
    found = (projection_from_matmul(product) for product in products if product is not None)
    return next((projection for projection in found if projection is not None), None)


def scale_projection(projection: Projection, factor: float) -> None:
    """Multiply what the layer computes by `factor`: weights are rounded once, not at all by a power of two."""
    for value in (projection.weight, projection.bias):
        assert value.dtype is not None
        change_initializer(value, lambda array: (array * np.float32(factor)).astype(array.dtype), dtype=value.dtype)


def sole_reader(value: ir.Value) -> ir.Node | None:
    """The node that reads `value`, once; None where several do, none, or the graph gives it out."""
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def is_constant(value: ir.Value | None) -> bool:
    """Whether the graph holds `value`, and nobody can give another."""
    return value is not None and value.is_initializer() and not value.is_graph_input()


def constant_operand(node: ir.Node, *, rank: int) -> ir.Value | None:
    """What of the two that `node` reads is a float constant of this rank; None where none is, or both are."""
    found = [
        value
        for value in node.inputs
        if value is not None and is_constant(value) and value.shape is not None and len(value.shape) == rank
    ]
    if len(found) != 1 or len(node.inputs) != 2:
        return None
    return found[0] if found[0].dtype is not None and found[0].dtype.is_floating_point() else None


def other_operand(node: ir.Node, value: ir.Value) -> ir.Value:
    """What `node`, which reads two values, reads besides `value`."""
    (other,) = (operand for operand in node.inputs if operand is not value)
    assert other is not None
    return other


def _is_own_constant(value: ir.Value | None, *, rank: int) -> bool:
    if value is None or not is_constant(value) or sole_reader(value) is None:
        return False
    return value.shape is not None and len(value.shape) == rank


def _fits(weight: ir.Value, bias: ir.Value) -> bool:
    assert weight.shape is not None
    assert bias.shape is not None
    return weight.shape[1] == bias.shape[0] and weight.dtype == bias.dtype
