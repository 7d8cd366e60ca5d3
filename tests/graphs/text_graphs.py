"""Small graphs written as text, which tests of passes are made of, and how to run them."""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from rpln_graphs.sessions import run_from_model

OPSET = 20

Arrays = dict[str, NDArray[Any]]


def model_from_text(text: str) -> ir.Model:
    """Return the graph that `text` writes in ONNX's syntax, with shapes. Nodes are named after their first output.

    A double underscore in a name stands for a dot, which the syntax does not allow.
    """
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {OPSET}]>\n{text}')
    common.ShapeInferencePass()(model)
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in dict.fromkeys(values):
        value.name = (value.name or "").replace("__", ".")
    for node in graph:
        node.name = node.outputs[0].name
    return model


def run(model: ir.Model, feeds: Arrays) -> Arrays:
    """Return the outputs by name, as ONNX Runtime computes them without optimization."""
    return runner(model)(feeds)


def runner(model: ir.Model) -> Callable[[Arrays], Arrays]:
    """Return a function that does `run` for many inputs of one graph."""
    return run_from_model(model)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def node_named(model: ir.Model, name: str) -> ir.Node:
    (node,) = (node for node in model.graph if node.name == name)
    return node


def values_of(value: ir.Value) -> NDArray[Any]:
    """Return the values of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy()
