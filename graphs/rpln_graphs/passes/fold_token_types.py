"""(words + type) + positions[ids] -> words + (positions + type)[ids]: the type of all tokens is added at export.

`type` is a constant vector [D]: row 0 of the table of token types, where every token has type 0. It goes into the table
of positions [P, D], never into that of words, which a head may be tied to. Only the order of two additions changes.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.rewriting.folding import FoldingPass, drop
from rpln_graphs.rewriting.initializers import change_initializer
from rpln_graphs.rewriting.projections import is_own_constant
from rpln_graphs.rewriting.traits import RELATIVE_POSITIONS, TOKEN_TYPES, GraphTraits
from rpln_graphs.rewriting.values import constant_operand, maker, operand, other_operand, sole_reader, tensor_of

NOT_ADDED: Final = "its sum is not read by a single Add"
NO_TABLE: Final = "the value added next is not looked up in a constant table of its own"
OTHER_ROWS: Final = "the rows of the table and the vector differ in type or length"


class FoldTokenTypes(FoldingPass):
    """A pass that folds the row of token types. It counts the rows that it folded: one, if the graph has embeddings."""

    unless: ClassVar[Mapping[str, str]] = {
        TOKEN_TYPES: "each token has a type of its own",
        RELATIVE_POSITIONS: "there is no table of positions that a type could be added to",
    }

    def formula(self, traits: GraphTraits) -> int:
        """Return 1; a graph without layers has no embeddings."""
        return min(1, traits.layers)

    def candidates(self, model: ir.Model) -> Iterable[ir.Node]:
        """Yield the Adds of a constant vector, except to a product: a linear layer adds its bias to a product."""
        for node in model.graph:
            vector = constant_operand(node, rank=1) if node.op_type == "Add" else None
            if vector is not None and maker(other_operand(node, vector), "MatMul") is None:
                yield node

    def fold(self, node: ir.Node) -> str | None:
        """Add the vector to the table whose rows are added next, or return the reason why not."""
        vector, total = constant_operand(node, rank=1), node.outputs[0]
        assert vector is not None
        following = sole_reader(total)
        if following is None or following.op_type != "Add":
            return NOT_ADDED
        table = _table_of(other_operand(following, total))
        if table is None:
            return NO_TABLE
        added = tensor_of(vector)
        if table.dtype != vector.dtype or tensor_of(table).shape[1] != added.shape[0]:
            return OTHER_ROWS
        change_initializer(table, lambda rows: np.asarray(rows + added.numpy()))
        drop(node, other_operand(node, vector))
        return None


def _table_of(rows: ir.Value) -> ir.Value | None:
    """Return the constant matrix whose rows these are, or None if there is none, or if others read it or them."""
    gather = maker(rows, "Gather")
    if gather is None or gather.attributes.get_int("axis", 0) != 0 or sole_reader(rows) is None:
        return None
    table = operand(gather, 0)
    return table if is_own_constant(table, rank=2) else None
