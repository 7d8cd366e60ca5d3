"""(words + type) + positions[ids] -> words + (positions + type)[ids]: the type of all tokens is added at export.

`type` is a constant vector [D]: row 0 of the table of token types, which is all that is read of that where every token
is of type 0. It goes into the table of positions [P, D], never into that of words, which a head may be tied to. Only
the order of two additions changes.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from rpln_graphs.rewriting.base import RELATIVE_POSITIONS, TOKEN_TYPES, GraphTraits
from rpln_graphs.rewriting.folding import FoldingPass, drop
from rpln_graphs.rewriting.initializers import change_initializer
from rpln_graphs.rewriting.projections import constant_operand, is_constant, other_operand, sole_reader


class FoldTokenTypes(FoldingPass):
    """Counts the vectors added to a table: one, where there are embeddings."""

    unless: ClassVar[Mapping[str, str]] = {
        TOKEN_TYPES: "each token has a type of its own",
        RELATIVE_POSITIONS: "there is no table of positions that a type could be added to",
    }

    def formula(self, traits: GraphTraits) -> int:
        """One for the embeddings; a graph without layers has none."""
        return min(1, traits.layers)

    def candidates(self, model: ir.Model) -> Iterable[ir.Node]:
        """The Adds of a constant vector to anything but a product: those are of linear layers."""
        for node in model.graph:
            vector = constant_operand(node, rank=1) if node.op_type == "Add" else None
            producer = None if vector is None else other_operand(node, vector).producer()
            if vector is not None and (producer is None or producer.op_type != "MatMul"):
                yield node

    def fold(self, node: ir.Node) -> str | None:
        """Add the vector to the table whose rows are added next."""
        vector = constant_operand(node, rank=1)
        assert vector is not None
        total = node.outputs[0]
        following = sole_reader(total)
        if following is None or following.op_type != "Add":
            return "its sum is not read by one Add alone"
        table = _table_of(other_operand(following, total))
        if table is None:
            return "what is added next are no rows of a constant table that is read only there"
        assert table.shape is not None
        assert vector.shape is not None
        if table.dtype != vector.dtype or table.shape[1] != vector.shape[0]:
            return "the table's rows and the vector differ in type or length"
        assert table.dtype is not None
        held = vector.const_value
        assert held is not None
        change_initializer(table, lambda rows: np.asarray(rows + held.numpy()), dtype=table.dtype)
        drop(node, other_operand(node, vector))
        return None


def _table_of(rows: ir.Value) -> ir.Value | None:
    """The matrix whose rows these are, if nobody else reads them or it."""
    gather = rows.producer()
    if gather is None or gather.op_type != "Gather" or gather.attributes.get_int("axis", 0) != 0:
        return None
    table = gather.inputs[0]
    if table is None or not is_constant(table) or sole_reader(table) is None or sole_reader(rows) is None:
        return None
    return table if table.shape is not None and len(table.shape) == 2 else None
