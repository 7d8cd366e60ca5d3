"""fp16 or bf16 graph -> a graph that computes in fp32 and rounds to the lower type after every operator.

ONNX Runtime's CPU provider has no bf16 kernels, and computes fp16 in fp32 with casts it may merge, so overflow can
pass unseen. The rounding copy shows on any CPU what a device that computes in the lower type would show.
"""

import numpy as np
import onnx_ir as ir

from rpln_graphs.rewriting.initializers import change_initializer

LOWER_TYPES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

ROUNDING = "rpln.rounding"
"""Marks the casts that round, so that they are not rounded themselves."""


def rounding_copy(model: ir.Model) -> ir.Model:
    """A copy of the strongly typed `model` that computes in fp32 and rounds after each operator.

    Weights are widened when the copy is saved: once, not in every run. Inputs and outputs in a lower type become fp32.
    """
    copy = model.clone()
    graph = copy.graph
    for value in graph.initializers.values():
        if value.dtype in LOWER_TYPES:
            change_initializer(value, lambda array: array.astype(np.float32), dtype=ir.DataType.FLOAT)
    for value in graph.inputs:
        if value.dtype in LOWER_TYPES:
            _round(graph, None, value, value.dtype)
    for node in list(graph):
        lower = node.outputs[0].dtype
        if lower not in LOWER_TYPES or node.metadata_props.get(ROUNDING):
            continue
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
        for value in node.outputs:
            if value.dtype == lower:  # statistics of a norm are in fp32
                _round(graph, node, value, lower)
    return copy


def _round(graph: ir.Graph, node: ir.Node | None, value: ir.Value, lower: ir.DataType) -> None:
    """Insert value -> Cast(lower) -> Cast(float) before all readers of `value`, and before the graph's output."""
    value.type = ir.TensorType(ir.DataType.FLOAT)  # a new one: a clone's values share theirs with the original's
    narrowed = _cast(value, lower, f"{value.name}.rounded")
    widened = _cast(narrowed.outputs[0], ir.DataType.FLOAT, f"{value.name}.widened")
    value.replace_all_uses_with(widened.outputs[0], replace_graph_outputs=True)
    narrowed.replace_input_with(0, value)
    if node is None:
        graph.insert_before(graph[0], [narrowed, widened])
    else:
        graph.insert_after(node, [narrowed, widened])


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": ir.AttrInt64("to", dtype)}, name=name, metadata_props={ROUNDING: "1"})
    output = node.outputs[0]
    output.name, output.shape, output.type = name, value.shape, ir.TensorType(dtype)
    return node
