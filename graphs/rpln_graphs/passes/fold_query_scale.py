"""(Q K^T) s -> (Q s) K^T: the scale 1/sqrt(d) goes into weight and bias of the query projection, at export.

This is exact where sqrt(d) is a power of two (head sizes 16 and 64); elsewhere weights are rounded once. With relative
positions the scale also multiplies their scores, so it stays where it is. Heads of size 1 have the scale 1, which no
traced graph multiplies by.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Final

import onnx_ir as ir

from rpln_graphs.rewriting.folding import FoldingPass, drop
from rpln_graphs.rewriting.projections import Projection, projection_from_result, scale_projection
from rpln_graphs.rewriting.traits import RELATIVE_POSITIONS, UNSCALED, GraphTraits
from rpln_graphs.rewriting.values import constant_operand, maker, other_operand, sole_reader, tensor_of

OTHER_PRODUCT: Final = "it scales more than the product of queries and keys"
READ_UNSCALED: Final = "the scores are also read unscaled"
OTHER_QUERIES: Final = "its queries are not a projection that only this product reads"


class FoldQueryScale(FoldingPass):
    """A pass that folds the scale of attention scores. It counts the attentions whose scale it folded."""

    unless: ClassVar[Mapping[str, str]] = {
        RELATIVE_POSITIONS: "the scale also multiplies the scores of relative positions",
        UNSCALED: "their scale is 1",
    }

    def formula(self, traits: GraphTraits) -> int:
        """Return one for each layer, or two with cross-attention."""
        return traits.attentions

    def expected(self, traits: GraphTraits) -> int:
        """Return the formula's count, without the attentions that a feature in `unless` makes exceptions."""
        return traits.attentions_except(of_self=self.unless, of_cross={UNSCALED})

    def candidates(self, model: ir.Model) -> Iterable[ir.Node]:
        """Yield the Muls that scale scores on their way into a Softmax, before a mask is added."""
        for node in model.graph:
            if node.op_type == "Softmax":
                masked = maker(node.inputs[0], "Add")
                for value in node.inputs if masked is None else masked.inputs:
                    scaling = maker(value, "Mul")
                    if scaling is not None and _scales_product(scaling):
                        yield scaling

    def fold(self, node: ir.Node) -> str | None:
        """Scale the projection of the queries in place of the scores, or return the reason why not."""
        scale = constant_operand(node, rank=0)
        assert scale is not None
        scores = other_operand(node, scale)
        product = maker(scores, "MatMul")
        if product is None:
            return OTHER_PRODUCT
        if sole_reader(scores) is None:
            return READ_UNSCALED
        projection = _projection_of(product.inputs[0])
        if projection is None:
            return OTHER_QUERIES
        scale_projection(projection, float(tensor_of(scale).numpy()))
        drop(node, scores)
        return None


def _scales_product(node: ir.Node) -> bool:
    """Return whether a Mul has a constant factor and a product or a sum; a mask is multiplied by something else."""
    scale = constant_operand(node, rank=0)
    return scale is not None and maker(other_operand(node, scale), "MatMul", "Add") is not None


def _projection_of(queries: ir.Value | None) -> Projection | None:
    """Return the linear layer whose result, with its heads separated, is `queries`; None if others read them too."""
    while queries is not None and sole_reader(queries) is not None:
        rearranging = maker(queries, "Reshape", "Transpose")
        if rearranging is None:
            return projection_from_result(queries)
        queries = rearranging.inputs[0]
    return None
