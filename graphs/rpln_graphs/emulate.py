"""fp16 or bf16 graph -> a graph that computes in fp32 and rounds to the lower type after every operator.

ONNX Runtime's CPU provider has no bf16 kernels. It computes fp16 in fp32 with casts that it may merge, so that overflow
may go unnoticed. The rounding copy overflows on any CPU where a device that computes in the lower type does.
"""

import onnx_ir as ir

from rpln_graphs.rewriting.initializers import cast_initializer
from rpln_graphs.rewriting.nodes import cast_node, insert_behind

LOWER_TYPES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""The types whose rounding the copy imitates."""

ROUNDING = "rpln.rounding"
"""The metadata key of the casts that round, which are not rounded themselves."""


def rounding_copy(model: ir.Model) -> ir.Model:
    """Return a copy of the strongly typed `model` that computes in fp32 and rounds after each operator.

    Weights are widened once, when the copy is saved. Inputs and outputs in a lower type become fp32.
    """
    copy = model.clone()
    graph = copy.graph
    for value in graph.initializers.values():
        if value.dtype in LOWER_TYPES:
            cast_initializer(value, ir.DataType.FLOAT)
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
            if value.dtype == lower:  # the statistics of a LayerNorm are in fp32
                _round(graph, node, value, lower)
    return copy


def _round(graph: ir.Graph, node: ir.Node | None, value: ir.Value, lower: ir.DataType) -> None:
    """Insert Cast(lower) and Cast(float) behind `node`, which computes `value`, for all readers and graph outputs."""
    value.type = ir.TensorType(ir.DataType.FLOAT)  # a new one: a clone's values share theirs with the original's
    narrowed = cast_node(value, lower, name=f"{value.name}.narrowed")
    widened = cast_node(narrowed.outputs[0], ir.DataType.FLOAT, name=f"{value.name}.widened")
    for cast in (narrowed, widened):
        cast.metadata_props[ROUNDING] = "1"
    value.replace_all_uses_with(widened.outputs[0], replace_graph_outputs=True)
    narrowed.replace_input_with(0, value)
    insert_behind(graph, node, [narrowed, widened])
