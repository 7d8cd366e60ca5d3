"""LN(x; gamma, beta) W + b -> LN(x; 1, 0) (diag(gamma) W) + (b + beta W): a LayerNorm's affine goes into what follows.

Rules:
1. Every reader of the LayerNorm must be a linear layer whose constants nobody else reads, and its result must not be an
   output of the graph.
2. Scale and bias stay in the graph as ones and zeros, under their names: LayerNormalization must have a scale, every
   runtime's fusions expect a bias, and other passes recognize the LayerNorm by its scale's name.
3. Weights are rounded once. The product beta W is summed in fp64.
4. A scale whose largest element is far from 1 stays. It compensates for a stream in which few channels are far larger
   than the others: without it, in fp16, the others would be subnormal in LN(x; 1, 0), and weights out of range.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.rewriting.base import OUTLYING_SCALE
from rpln_graphs.rewriting.folding import FoldingPass
from rpln_graphs.rewriting.initializers import Array, change_initializer
from rpln_graphs.rewriting.projections import NO_PROJECTION, Projection, is_own_constant, projection_from_matmul
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.rewriting.values import operand, tensor_of

FAR: Final = 2.0**8
"""The largest that a scale's largest element may be; the smallest is one divided by it."""

NO_VECTORS: Final = "its scale or bias is not a constant vector of its own"
GIVEN_OUT: Final = "its result is an output of the graph"
STATISTICS_READ: Final = "its mean or its deviation is read"


class FoldNormAffine(FoldingPass):
    """A pass that folds the affine of LayerNorms. It counts those within layers, whose input an Add reads too.

    It also folds the final LayerNorm and that of a head where it can, but does not count them: they depend on the head.
    """

    def formula(self, traits: GraphTraits) -> int:
        """Return two for each layer, or three with cross-attention."""
        return traits.blocks

    def candidates(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every LayerNorm of the graph."""
        return (node for node in model.graph if node.op_type == "LayerNormalization")

    def counts(self, node: ir.Node) -> bool:
        """Return whether the residual stream goes on beside the LayerNorm."""
        return any(use.node.op_type == "Add" for use in operand(node, 0).uses())

    def fold(self, node: ir.Node) -> str | None:
        """Put the affine of the LayerNorm into the linear layers that follow, or return the reason why not."""
        affine = [value for value in node.inputs[1:] if value is not None]
        if not all(is_own_constant(value, rank=1) for value in affine):
            return NO_VECTORS
        found = _following(node)
        if isinstance(found, str):
            return found
        if not 1 / FAR <= float(np.abs(tensor_of(affine[0]).numpy()).max()) <= FAR:
            return OUTLYING_SCALE  # rule 4
        for projection in found:
            _fold_into(projection, *affine)
        for value, number in zip(affine, (1.0, 0.0), strict=False):  # rule 2
            _fill(value, number)
        return None


def _following(norm: ir.Node) -> list[Projection] | str:
    """Return the linear layers that read `norm`, or the reason why not all readers are such layers (rule 1)."""
    normed = norm.outputs[0]
    if normed.is_graph_output():
        return GIVEN_OUT
    if any(output.uses() or output.is_graph_output() for output in norm.outputs[1:]):
        return STATISTICS_READ
    found = []
    for use in normed.uses():
        projection = projection_from_matmul(use.node)
        if projection is None:
            return f"its reader {use.node.name} {NO_PROJECTION}"
        found.append(projection)
    return found


def _fold_into(projection: Projection, scale: ir.Value, bias: ir.Value | None = None) -> None:
    """Multiply the weight by the scale, and add what the bias contributes to the layer's own bias (rule 3)."""
    # The tensors are held here because the initializers get other contents.
    gamma, beta, weight = tensor_of(scale), None if bias is None else tensor_of(bias), tensor_of(projection.weight)

    def scaled(matrix: Array) -> Array:
        return gamma.numpy()[:, np.newaxis] * matrix

    def shifted(vector: Array) -> Array:
        assert beta is not None
        return vector + beta.numpy().astype(np.float64) @ weight.numpy().astype(np.float64)

    change_initializer(projection.weight, scaled)
    if beta is not None:
        change_initializer(projection.bias, shifted)


def _fill(value: ir.Value, number: float) -> None:
    """Let `value` hold `number` everywhere."""
    change_initializer(value, lambda array: np.full_like(array, number))
