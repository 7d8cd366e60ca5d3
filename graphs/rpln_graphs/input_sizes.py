"""Shape(any input that has the axis) -> Shape(one and the same input that has it): sizes are read in one way.

Several inputs have an axis such as `sequence`, and torch reads its size off any one of them. Which one it is depends on
the number of inputs, by way of the names that torch invents for sizes. A graph should not change with that.

Rules:
1. A size is read off `position_ids` where they have the axis, otherwise off the first input that has it.
2. Sizes are read before everything else, in the order of the inputs and their axes.
"""

from typing import Final

import onnx_ir as ir

PREFERRED: Final = "position_ids"
"""The input that sizes are read off where it has the axis (rule 1)."""


def settle_input_sizes(graph: ir.Graph) -> None:
    """Change in place where a graph that torch has just traced reads the sizes of its inputs."""
    sources = _sources(graph)
    readers = {}
    for node in graph:
        value = node.inputs[0] if node.op_type == "Shape" else None
        if value is not None and value.is_graph_input() and value.shape is not None:
            source, axis = sources[str(value.shape[node.attributes["start"].as_int()])]
            node.replace_input_with(0, source)
            node.attributes["start"] = ir.AttrInt64("start", axis)
            node.attributes["end"] = ir.AttrInt64("end", axis + 1)
            readers[node] = graph.inputs.index(source), axis
    # torch reads a size with two nodes: Squeeze(Shape(input)).
    shapes = sorted(readers, key=lambda node: readers[node])
    ordered = [node for shape in shapes for node in (shape, *shape.outputs[0].consumers())]
    graph.remove(ordered)
    graph.insert_before(graph[0], ordered)


def _sources(graph: ir.Graph) -> dict[str, tuple[ir.Value, int]]:
    """Return, for each named axis, the input to read its size off and the index of the axis there."""
    sources: dict[str, tuple[ir.Value, int]] = {}
    for value in sorted(graph.inputs, key=lambda value: value.name != PREFERRED):
        for place, size in enumerate(value.shape or ()):
            sources.setdefault(str(size), (value, place))
    return sources
