"""A graph as text, for golden files. Of weights only the names are written, of small constants the values."""

import onnx_ir as ir

from rpln_graphs.rewriting.base import counts_from_model

MOST_PRINTED = 8
"""The most numbers of a constant that is written with its values, unless it is a parameter."""


def text_from_model(model: ir.Model) -> str:
    """Return a line for each input, initializer, node and output, after the opset and the passes."""
    graph = model.graph
    lines = [
        f"opset {model.opset_imports['']}",
        *(f"pass {name}: {count}" for name, count in counts_from_model(model).items()),
        "",
        *(f"input {_typed(value)}" for value in graph.inputs),
        "",
        *sorted(_line_from_initializer(value) for value in graph.initializers.values()),
        "",
        *(_line_from_node(node) for node in graph),
        "",
        *(f"output {_typed(value)}" for value in graph.outputs),
    ]
    return "\n".join(lines) + "\n"


def _line_from_initializer(value: ir.Value) -> str:
    tensor = value.const_value
    assert tensor is not None
    printed = tensor.size <= MOST_PRINTED and not str(value.name).endswith((".weight", ".weight.T", ".bias"))
    return f"initializer {_typed(value)}" + (f" = {tensor.numpy().tolist()}" if printed else "")


def _line_from_node(node: ir.Node) -> str:
    """Return the line of a node. An output that is named like the node is left out."""
    inputs = ", ".join("" if value is None else str(value.name) for value in node.inputs)
    attributes = "".join(f" {_text_from_attribute(node.attributes[name])}" for name in sorted(node.attributes))
    outputs = ", ".join(_typed(value).removeprefix(f"{node.name} ") for value in node.outputs)
    return f"{node.name}: {node.op_type}({inputs}){attributes} -> {outputs}"


def _text_from_attribute(attribute: ir.Attr) -> str:
    value = attribute.value
    return f"{attribute.name}={value:.7g}" if isinstance(value, float) else f"{attribute.name}={value}"


def _typed(value: ir.Value) -> str:
    assert value.dtype is not None
    assert value.shape is not None
    sizes = ", ".join(str(size) if isinstance(size, int) else str(size.value) for size in value.shape)
    return f"{value.name} {value.dtype.name.lower()}[{sizes}]"
