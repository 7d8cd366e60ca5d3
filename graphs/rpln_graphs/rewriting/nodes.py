"""New nodes: named, typed and shaped when they are made, since shape inference does not run again."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from rpln_graphs.rewriting.values import Size

Shape = ir.Shape | Sequence[Size | str]


def typed_node(
    operator: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str,
    dtype: ir.DataType | None,
    shape: Shape | None,
) -> ir.Node:
    """Return a node whose only output has the node's name."""
    node = ir.node(operator, inputs, attributes, name=name)
    set_type(node.outputs[0], dtype, shape).name = name
    return node


def cast_node(value: ir.Value, dtype: ir.DataType, *, name: str) -> ir.Node:
    """Return a Cast of `value`, whose output is called `name`."""
    node = typed_node("Cast", [value], {"to": ir.AttrInt64("to", dtype)}, name=name, dtype=dtype, shape=value.shape)
    node.name = f"{name}.Cast"
    return node


def set_type(value: ir.Value, dtype: ir.DataType | None, shape: Shape | None) -> ir.Value:
    """Give `value` a type and a shape of its own, which a clone's values share with the original's, and return it."""
    assert dtype is not None
    value.type = ir.TensorType(dtype)
    value.shape = None if shape is None else ir.Shape(shape)
    return value


def insert_behind(graph: ir.Graph, node: ir.Node | None, nodes: Sequence[ir.Node]) -> None:
    """Insert `nodes` right behind `node`; at the start of the graph if that is None, as for the reader of an input."""
    if node is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(node, nodes)


def take_place(new: ir.Value, old: ir.Value) -> None:
    """Give `new` the name, type, shape and readers of `old`, which nobody reads afterwards."""
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
