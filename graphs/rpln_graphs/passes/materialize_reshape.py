"""Reshape(x, Concat(Shape(x)..., 4, 8)) -> Reshape(x, [0, 0, 4, 8]): no shape arithmetic is left at run time.

Rules, for the shapes that inference found for input and output:
1. A size of the output that is a number is written as it is.
2. A symbolic size that stands at the same place in the input is written as 0, "copy". A size without a name equals no
   other.
3. One other symbolic size may remain: it is written as -1, "the rest". With two or more, the node stays as it is.
4. The input must have no size 0, since `allowzero` is dropped.
"""

import onnx_ir as ir
from onnx_ir.passes import common

from rpln_graphs.rewriting.base import CountingPass
from rpln_graphs.rewriting.initializers import shared_initializer
from rpln_graphs.rewriting.values import Size, same_size


class MaterializeReshape(CountingPass):
    """A pass that makes the shapes of Reshape nodes constants. It counts the nodes whose shape became one."""

    def rewrite(self, model: ir.Model) -> int:
        rewritten = 0
        for node in list(model.graph):
            target = _constant_target(node)
            if target is not None:
                name = f"shape.{'x'.join(map(str, target))}"
                node.replace_input_with(1, shared_initializer(model.graph, name, target))
                node.attributes.pop("allowzero", None)
                rewritten += 1
        common.RemoveUnusedNodesPass()(model)
        return rewritten


def _constant_target(node: ir.Node) -> list[int] | None:
    """Return the constant shape for a Reshape that computes its shape, or None if there is none (rules 3 and 4)."""
    if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].is_initializer():
        return None
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None or 0 in source.shape:
        return None
    target = [_entry(source.shape, position, size) for position, size in enumerate(result.shape)]
    return target if target.count(-1) <= 1 else None


def _entry(source: ir.Shape, position: int, size: Size) -> int:
    """Return what is written for a size of the output (rules 1 to 3)."""
    if isinstance(size, int):
        return size
    return 0 if position < len(source) and same_size(source[position], size) else -1
