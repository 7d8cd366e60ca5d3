"""What the passes share that fuse into ONNX Runtime's own operators, those of the domain com.microsoft."""

from collections.abc import Iterable
from typing import Final

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import RULE_NAME_TAG

from rpln_graphs.rewriting.base import FusingPass

DOMAIN: Final = "com.microsoft"
FLOATS: Final = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

TIDYING: Final = (
    common.CommonSubexpressionEliminationPass(),
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.RemoveUnusedNodesPass(),
)
"""A rule makes what it needs for every match anew."""


class ContribPass(FusingPass):
    """A FusingPass that leaves the graph in order, without what only the fused operators' operands were made of."""

    def rewrite(self, model: ir.Model) -> int:
        """Apply the rules, then see to what they leave to others."""
        count = super().rewrite(model)
        if count:
            for node in model.graph:
                if node.metadata_props.pop(RULE_NAME_TAG, None):
                    node.name = node.outputs[0].name
                    _leave_out_unread(node)
            for tidy in TIDYING:
                tidy(model)
            model.graph.sort()
        return count


def set_type(value: ir.Value, dtype: ir.DataType | None, shape: Iterable[int | ir.SymbolicDim]) -> ir.Value:
    """Give a new value what no shape inference would find: it knows no operators of the domain."""
    assert dtype is not None
    value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
    return value


def same_size(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    """Whether two axes are of one size, however that is written: batch*choices is choices*batch."""
    if isinstance(one, int) or isinstance(other, int):
        return one == other
    return one.value is not None and other.value is not None and one.simplify() == other.simplify()


def same_sizes(one: ir.Shape | None, other: ir.Shape | None) -> bool:
    """Whether two shapes are known to be one."""
    return one is not None and other is not None and len(one) == len(other) and all(map(same_size, one, other))


def _leave_out_unread(node: ir.Node) -> None:
    """An output without a name is one that the kernel need not compute."""
    read = [place for place, output in enumerate(node.outputs) if output.uses() or output.is_graph_output()]
    node.resize_outputs(max(read, default=0) + 1)
    for place, output in enumerate(node.outputs):
        if place not in read:
            output.name = ""
