"""Projections: linear layers as they are traced, Add(MatMul(x, weight), bias), whose constants nobody else reads."""

from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from rpln_graphs.rewriting.initializers import scale_initializer
from rpln_graphs.rewriting.values import is_constant, maker, operand, other_operand, sole_reader, tensor_of

NO_PROJECTION: Final = (
    "is not a linear layer of its own: a MatMul with a weight, then an Add of a bias, both constants without other "
    "readers"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A linear layer x [..., D] -> x weight [D, N] + bias [N]."""

    matmul: ir.Node
    add: ir.Node
    weight: ir.Value
    bias: ir.Value

    @property
    def result(self) -> ir.Value:
        """The value that the layer computes, [..., N]."""
        return self.add.outputs[0]

    @property
    def width(self) -> int:
        """The size N of the layer's result."""
        return tensor_of(self.bias).shape.numpy()[0]

    @property
    def constants(self) -> tuple[ir.Value, ir.Value]:
        """The weight and the bias."""
        return self.weight, self.bias


def projection_from_matmul(matmul: ir.Node) -> Projection | None:
    """Return the linear layer whose product `matmul` is, or None if it is not one that a pass may change."""
    add = sole_reader(matmul.outputs[0])
    if matmul.op_type != "MatMul" or matmul.domain or add is None or add.op_type != "Add":
        return None
    weight, bias = operand(matmul, 1), other_operand(add, matmul.outputs[0])
    if not is_own_constant(weight, rank=2) or not is_own_constant(bias, rank=1):
        return None
    fits = tensor_of(weight).shape[1] == tensor_of(bias).shape[0] and weight.dtype == bias.dtype
    return Projection(matmul=matmul, add=add, weight=weight, bias=bias) if fits else None


def projection_from_result(value: ir.Value | None) -> Projection | None:
    """Return the linear layer that computes `value`, or None if no layer does; `value` may have several readers."""
    add = maker(value, "Add")
    products = [] if add is None else [maker(summand, "MatMul") for summand in add.inputs]
    found = (projection_from_matmul(product) for product in products if product is not None)
    return next((projection for projection in found if projection is not None), None)


def scale_projection(projection: Projection, factor: float) -> None:
    """Let the layer compute `factor` times what it did."""
    for value in projection.constants:
        scale_initializer(value, factor)


def is_own_constant(value: ir.Value, *, rank: int) -> bool:
    """Return whether `value` is a constant of this rank that is read only once."""
    return is_constant(value) and sole_reader(value) is not None and len(tensor_of(value).shape) == rank
