"""(Q K^T) s -> (Q s) K^T: the scale 1/sqrt(d) goes into weight and bias of the query projection, at export.

Exact where sqrt(d) is a power of two (head sizes 16 and 64), else weights are rounded once. With relative positions the
scale applies to their scores as well, so it stays where it is.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Final

import onnx_ir as ir

from rpln_graphs.rewriting.base import RELATIVE_POSITIONS, GraphTraits
from rpln_graphs.rewriting.folding import FoldingPass, drop
from rpln_graphs.rewriting.projections import (
    Projection,
    constant_operand,
    other_operand,
    projection_from_result,
    scale_projection,
    sole_reader,
)

REARRANGING: Final = frozenset({"Reshape", "Transpose"})
"""What makes heads of queries."""


class FoldQueryScale(FoldingPass):
    """Counts the attentions."""

    unless: ClassVar[Mapping[str, str]] = {
        RELATIVE_POSITIONS: "the scale also multiplies the scores of relative positions",
    }

    def formula(self, traits: GraphTraits) -> int:
        """L attentions, 2L with cross-attention."""
        return (2 if traits.cross_attention else 1) * traits.layers

    def expected(self, traits: GraphTraits) -> int:
        """The formula's count, less self-attention where that is an exception: cross-attention never is."""
        exempt = traits.layers if traits.features.intersection(self.unless) else 0
        return self.formula(traits) - exempt

    def candidates(self, model: ir.Model) -> Iterable[ir.Node]:
        """What multiplies scores on their way into a Softmax, before a mask is added."""
        for node in model.graph:
            if node.op_type == "Softmax":
                scores = node.inputs[0].producer() if node.inputs[0] is not None else None
                summands = scores.inputs if scores is not None and scores.op_type == "Add" else node.inputs
                producers = (value.producer() for value in summands if value is not None)
                yield from (producer for producer in producers if producer is not None and _is_scaling(producer))

    def fold(self, node: ir.Node) -> str | None:
        """Scale the queries' projection instead."""
        scale = constant_operand(node, rank=0)
        assert scale is not None
        assert scale.const_value is not None
        product = other_operand(node, scale)
        matmul = product.producer()
        if matmul is None or matmul.op_type != "MatMul":
            return "it scales more than a product of queries and keys"
        if sole_reader(product) is None:
            return "the scores are also read unscaled"
        projection = _projection_of(matmul.inputs[0])
        if projection is None:
            return "the queries are no projection that is read by this product alone"
        scale_projection(projection, float(scale.const_value.numpy()))
        drop(node, product)
        return None


def _is_scaling(node: ir.Node) -> bool:
    """Whether `node` scales a product or a sum; a mask is made of something else."""
    scale = constant_operand(node, rank=0) if node.op_type == "Mul" else None
    scaled = None if scale is None else other_operand(node, scale).producer()
    return scaled is not None and scaled.op_type in {"MatMul", "Add"}


def _projection_of(queries: ir.Value | None) -> Projection | None:
    """The linear layer whose result, heads apart, is `queries`."""
    while queries is not None and sole_reader(queries) is not None:
        producer = queries.producer()
        if producer is None or producer.op_type not in REARRANGING:
            return projection_from_result(queries)
        queries = producer.inputs[0]
    return None
