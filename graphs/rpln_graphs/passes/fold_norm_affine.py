"""LN(x; gamma, beta) W + b -> LN(x; 1, 0) (diag(gamma) W) + (b + beta W): a LayerNorm's affine goes into what follows.

Rules:
1. Every reader of the LayerNorm must be a linear layer of constants that nobody else reads, and the graph must not give
   its result out.
2. Scale and bias stay as ones and zeros, under their names: LayerNormalization must have a scale, every runtime knows
   it with a bias, and other passes know it by its scale's name.
3. Weights are rounded once. What beta adds to the biases is summed in fp64.
4. A scale that is far from 1 throughout or in places makes up for a stream whose channels differ as much: in fp16,
   LN(x; 1, 0) would be subnormal where it counts, and the weights out of range. It stays, which is conceded.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.rewriting.base import OUTLYING_SCALE, GraphTraits
from rpln_graphs.rewriting.folding import FoldingPass
from rpln_graphs.rewriting.initializers import Array, change_initializer
from rpln_graphs.rewriting.projections import (
    NO_PROJECTION,
    Projection,
    is_constant,
    projection_from_matmul,
    sole_reader,
)

FAR: Final = 2.0**8
"""A scale may be as large as this, and its largest element as small as the inverse."""


class FoldNormAffine(FoldingPass):
    """Counts the LayerNorms within layers, whose input goes on into an Add.

    The final one and that of a head are folded, too, where they can be. That depends on what the head does with them.
    """

    def formula(self, traits: GraphTraits) -> int:
        """2L, 3L with cross-attention."""
        return (3 if traits.cross_attention else 2) * traits.layers

    def candidates(self, model: ir.Model) -> Iterable[ir.Node]:
        """Every LayerNorm."""
        return (node for node in model.graph if node.op_type == "LayerNormalization")

    def counts(self, node: ir.Node) -> bool:
        """Whether the residual stream goes on beside it."""
        stream = node.inputs[0]
        assert stream is not None
        return any(use.node.op_type == "Add" for use in stream.uses())

    def fold(self, node: ir.Node) -> str | None:
        """Put the affine into the linear layers that follow."""
        scale, bias = node.inputs[1], node.inputs[2] if len(node.inputs) == 3 else None
        if scale is None or not _is_own_vector(scale) or (bias is not None and not _is_own_vector(bias)):
            return "its scale or bias is no constant vector that is read only here"
        found = _following(node)
        if isinstance(found, str):
            return found
        if not 1 / FAR <= _largest(scale) <= FAR:
            return OUTLYING_SCALE
        for projection in found:
            _fold_into(projection, scale, bias)
        _fill(scale, 1.0)
        if bias is not None:
            _fill(bias, 0.0)
        return None


def _following(norm: ir.Node) -> list[Projection] | str:
    """The linear layers that read `norm`, or why they are not all (rule 1)."""
    normed = norm.outputs[0]
    if normed.is_graph_output():
        return "the graph gives its result out"
    if any(output.uses() or output.is_graph_output() for output in norm.outputs[1:]):
        return "its mean or deviation is read"
    found = []
    for use in normed.uses():
        projection = projection_from_matmul(use.node)
        if projection is None:
            return f"its reader {use.node.name} {NO_PROJECTION}"
        found.append(projection)
    return found


def _largest(value: ir.Value) -> float:
    assert value.const_value is not None
    return float(np.abs(value.const_value.numpy()).max())


def _fold_into(projection: Projection, scale: ir.Value, bias: ir.Value | None) -> None:
    # What is folded is held here: the initializers get other contents.
    gamma, beta, weight = scale.const_value, None if bias is None else bias.const_value, projection.weight.const_value
    assert gamma is not None
    assert weight is not None

    def scaled(matrix: Array) -> Array:
        return (gamma.numpy()[:, np.newaxis] * matrix).astype(matrix.dtype)

    def shifted(vector: Array) -> Array:
        assert beta is not None
        added = beta.numpy().astype(np.float64) @ weight.numpy().astype(np.float64)
        return (vector + added).astype(vector.dtype)

    assert projection.weight.dtype is not None
    change_initializer(projection.weight, scaled, dtype=projection.weight.dtype)
    if beta is not None:
        change_initializer(projection.bias, shifted, dtype=projection.weight.dtype)


def _fill(value: ir.Value, number: float) -> None:
    assert value.dtype is not None
    change_initializer(value, lambda array: np.full_like(array, number), dtype=value.dtype)


def _is_own_vector(value: ir.Value) -> bool:
    return is_constant(value) and sole_reader(value) is not None and value.shape is not None and len(value.shape) == 1
