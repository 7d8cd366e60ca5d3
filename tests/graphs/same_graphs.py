"""Compares two graphs node for node and name for name, and returns the first line in which they differ."""

import hashlib
from collections.abc import Iterator
from itertools import zip_longest

import onnx_ir as ir

from tests.graphs.text_graphs import values_of


def first_difference(one: ir.Model, other: ir.Model) -> str:
    """Return the first difference in what is saved of the graphs, or an empty text if there is none."""
    for line, other_line in zip_longest(_lines(one), _lines(other), fillvalue="nothing"):
        if line != other_line:
            return f"{line}\nis in one graph, and in the other\n{other_line}"
    return ""


def _lines(model: ir.Model) -> Iterator[str]:
    graph = model.graph
    yield f"model {model.ir_version} {model.producer_name} {model.producer_version} {dict(model.opset_imports)}"
    yield f"graph {graph.name} {graph.doc_string} {dict(graph.metadata_props)} {dict(graph.opset_imports)}"
    yield from (f"metadata {name}: {text}" for name, text in model.metadata_props.items())
    yield from (f"function {identifier}" for identifier in model.functions)
    yield from (f"input {_text(value)}" for value in graph.inputs)
    yield from (f"initializer {_text(value)} {_contents(value)}" for value in graph.initializers.values())
    for node in graph:
        yield f"node {node.name}: {node.op_identifier()} {[value and value.name for value in node.inputs]}"
        yield from (f"  of {node.name}: {_attribute(node.attributes[name])}" for name in node.attributes)
        yield from (f"  of {node.name}: output {_text(value)}" for value in node.outputs)
        yield f"  of {node.name}: {node.doc_string} {dict(node.metadata_props)}"
    yield from (f"output {_text(value)}" for value in graph.outputs)


def _text(value: ir.Value) -> str:
    sizes = None if value.shape is None else [_size(size) for size in value.shape]
    return f"{value.name} {value.type} {sizes} {value.doc_string} {dict(value.metadata_props)}"


def _size(size: int | ir.SymbolicDim) -> str:
    """Return a size as text, with its sum in a fixed order: torch writes it in either order, from node to node."""
    return str(size) if isinstance(size, int) else " + ".join(sorted(str(size.value).split(" + ")))


def _attribute(attribute: ir.Attr) -> str:
    if attribute.type != ir.AttributeType.TENSOR:
        return f"{attribute.name} {attribute.type} {attribute.value}"
    tensor = attribute.as_tensor()
    return f"{attribute.name} {tensor.dtype} {tensor.shape} {tensor.tobytes()!r}"


def _contents(value: ir.Value) -> str:
    array = values_of(value)
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
