"""Reshape(x, Concat(Shape(x)..., 4, 8)) -> Reshape(x, [0, 0, 4, 8]): no shape arithmetic is left at run time.

Rules, read off the shapes that inference gave input and output:
1. A dimension that is static in the output is written as it is.
2. A symbolic one that stands at the same place in the input is 0, "copy"; one without a name equals no other.
3. One symbolic dimension may remain: it is -1, "the rest". With two or more, the node stays as it is.
4. The input must have no static dimension 0, since `allowzero` is dropped.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from rpln_graphs.rewriting.base import CountingPass
from rpln_graphs.rewriting.initializers import initializer_from_array


class MaterializeReshape(CountingPass):
    """Counts the Reshape nodes whose shape became a constant."""

    def rewrite(self, model: ir.Model) -> int:
        rewritten = 0
        for node in list(model.graph):
            target = _constant_target(node)
            if target is not None:
                node.replace_input_with(1, _shared_shape(model.graph, target))
                node.attributes.pop("allowzero", None)
                rewritten += 1
        common.RemoveUnusedNodesPass()(model)
        return rewritten


def _constant_target(node: ir.Node) -> tuple[int, ...] | None:
    if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].is_initializer():
        return None
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None or 0 in source.shape:
        return None
    target = [_entry(source.shape, position, size) for position, size in enumerate(result.shape)]
    return tuple(target) if target.count(-1) <= 1 else None


def _entry(source: ir.Shape, position: int, size: int | ir.SymbolicDim) -> int:
    if isinstance(size, int):
        return size
    return 0 if size.value is not None and position < len(source) and source[position] == size else -1


def _shared_shape(graph: ir.Graph, target: tuple[int, ...]) -> ir.Value:
    name = f"shape.{'x'.join(map(str, target))}"
    if name not in graph.initializers:
        graph.register_initializer(initializer_from_array(name, np.array(target, dtype=np.int64)))
    return graph.initializers[name]
