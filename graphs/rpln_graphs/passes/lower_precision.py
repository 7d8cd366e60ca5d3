"""float graph -> strongly typed fp16 or bf16 graph: types are written into the graph, with a Cast at each boundary.

Rules:
1. A node stays fp32 if its operator is in FLOAT_OPERATORS, or if any of its float inputs, outputs or weights was
   measured beyond the safe range of the lower type; all others compute in the lower type. Thus mask arithmetic with
   -3.4e38 stays fp32, and so does a feed-forward block whose activation exceeds 65,504.
2. LayerNormalization is lowered with the others: it computes its statistics in fp32 by its own stash_type = 1.
3. An initializer is stored in the lower type unless all of its readers stay fp32: no weight is stored twice.
4. Graph inputs and outputs get the I/O type; integers stay integers. Keys and values that decoder graphs pass on are in
   the lower type whatever the I/O type, or in fp32 where they were measured beyond its safe range.

The model's metadata say which MatMuls stayed fp32 and how far their values reach, and which value in the lower type is
the largest in each layer.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Final, Self

import onnx_ir as ir

from rpln_graphs.rewriting.base import Context, CountingPass
from rpln_graphs.rewriting.initializers import cast_initializer
from rpln_graphs.rewriting.nodes import cast_node, set_type
from rpln_graphs.rewriting.ranges import SAFE_RANGE, Ranges

FLOAT: Final = ir.DataType.FLOAT
FLOAT_OPERATORS: Final = {
    ir.DataType.FLOAT16: frozenset({"Softmax", "ReduceL2"}),
    ir.DataType.BFLOAT16: frozenset({"Softmax", "ReduceL2", "Einsum"}),  # ONNX's Einsum takes no bf16
}
"""Operators that stay fp32 (rule 1)."""
CACHED: Final = re.compile(r"(past_key_values|present|cross_key_values)\.(\d+\.(?:key|value))")
"""The names of the keys and values that decoder graphs pass on (rule 4)."""
KEPT_KEY: Final = "rpln.kept_float"
"""The key of the model's metadata that names the MatMuls that stayed fp32, with their largest magnitudes."""

REACH_KEY: Final = "rpln.reach_by_layer"
"""The key of the model's metadata that names the largest value of each layer, with its magnitude in the lower type."""
LAYER: Final = re.compile(r"embeddings|encoder\.layer\.\d+")
"""How the names of a layer's values begin, and those of the embeddings."""


class LowerPrecision(CountingPass):
    """A pass that writes fp16 or bf16 into a graph. It counts the nodes that compute in the lower type."""

    calibrated = True

    def __init__(self, *, dtype: ir.DataType, io_dtype: ir.DataType = FLOAT, ranges: Ranges | None = None) -> None:
        self.dtype = dtype
        self.io_dtype = io_dtype
        self.ranges = ranges

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        return cls(dtype=context.dtype, io_dtype=context.io_dtype, ranges=context.ranges)

    def rewrite(self, model: ir.Model) -> int:
        kept = {node: reach for node in model.graph if (reach := self._reach_if_kept(node)) is not None}
        lowered = [node for node in model.graph if node not in kept and _touches_float(node)]
        if self.ranges is not None:
            model.metadata_props[REACH_KEY] = json.dumps(_reach_by_layer(lowered, self.ranges))
        typing = _Typing(model, self.dtype, self._boundary_type, lowered=set(lowered))
        typing.type_inputs()
        typing.type_initializers()
        typing.type_nodes()
        typing.type_outputs()
        matmuls = {node.name: reach for node, reach in kept.items() if node.op_type in {"MatMul", "Gemm"}}
        model.metadata_props[KEPT_KEY] = json.dumps(matmuls)
        return len(lowered)

    def _boundary_type(self, value: ir.Value) -> ir.DataType:
        """Return the type of a float input or output of the graph (rule 4)."""
        place = CACHED.fullmatch(value.name or "")
        if place is None:
            return self.io_dtype
        # The past was an earlier step's present, so that both have one range.
        origins = {"past_key_values", "present"} if place[1] != "cross_key_values" else {place[1]}
        reach = max((self.ranges or {}).get(f"{origin}.{place[2]}", 0.0) for origin in origins)
        return FLOAT if reach > SAFE_RANGE[self.dtype] else self.dtype

    def _reach_if_kept(self, node: ir.Node) -> float | None:
        """Return the largest magnitude at `node` if the node stays fp32 (rule 1), else None."""
        if not _touches_float(node):
            return None
        reach = 0.0
        if self.ranges is not None:
            values = (value for value in (*node.inputs, *node.outputs) if value is not None and _is_float(value))
            reach = max(self.ranges[value.name or ""] for value in values)
        return reach if reach > SAFE_RANGE[self.dtype] or node.op_type in FLOAT_OPERATORS[self.dtype] else None


def _reach_by_layer(lowered: Iterable[ir.Node], ranges: Ranges) -> dict[str, tuple[str, float]]:
    """Return the name and the magnitude of the largest value that these nodes compute, by the layer that it is in."""
    largest: dict[str, tuple[str, float]] = {}
    for value in (value for node in lowered for value in node.outputs if _is_float(value)):
        name = value.name or ""
        if (layer := LAYER.match(name)) and ranges[name] >= largest.get(layer[0], ("", 0.0))[1]:
            largest[layer[0]] = name, ranges[name]
    return largest


class _Typing:
    """A run over a graph that types its values from the inputs down: a node's inputs are typed before the node."""

    def __init__(
        self,
        model: ir.Model,
        dtype: ir.DataType,
        boundary_type: Callable[[ir.Value], ir.DataType],
        *,
        lowered: set[ir.Node],
    ) -> None:
        self.graph = model.graph
        self.dtype = dtype
        self.boundary_type = boundary_type
        self.lowered = lowered
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def type_inputs(self) -> None:
        """Give float inputs of the graph their types (rule 4)."""
        for value in self.graph.inputs:
            if _is_float(value):
                set_type(value, self.boundary_type(value), value.shape)

    def type_initializers(self) -> None:
        """Store the weights of lowered nodes in the lower type (rule 3)."""
        for value in self.graph.initializers.values():
            if _is_float(value) and any(use.node in self.lowered for use in value.uses()):
                cast_initializer(value, self.dtype)

    def type_nodes(self) -> None:
        """Give every node inputs of its type, by Casts where needed, and type its outputs."""
        for node in list(self.graph):
            wanted = self.dtype if node in self.lowered else FLOAT
            for position, value in enumerate(node.inputs):
                if value is not None and value.dtype in {FLOAT, *SAFE_RANGE} and value.dtype != wanted:
                    node.replace_input_with(position, self._cast(value, wanted, before=node))
            for value in node.outputs:
                if _is_float(value):
                    set_type(value, wanted, value.shape)
            if node.op_type == "Cast" and node.attributes["to"].as_int() == FLOAT:
                node.attributes["to"] = ir.AttrInt64("to", wanted)

    def type_outputs(self) -> None:
        """Give float outputs of the graph their types (rule 4); they keep their names."""
        for position, value in enumerate(self.graph.outputs):
            wanted = self.boundary_type(value)
            if value.dtype in {FLOAT, *SAFE_RANGE} and value.dtype != wanted:
                name = value.name
                value.name = f"{name}.{value.dtype.name.lower()}"
                node = cast_node(value, wanted, name=name or "")
                self.graph.append(node)
                self.graph.outputs[position] = node.outputs[0]

    def _cast(self, value: ir.Value, dtype: ir.DataType, *, before: ir.Node) -> ir.Value:
        """Return `value` cast to `dtype`; there is one Cast for all readers."""
        key = (value, dtype)
        if key not in self.casts:
            node = cast_node(value, dtype, name=f"{value.name}.{dtype.name.lower()}")
            self.graph.insert_before(before, node)
            self.casts[key] = node.outputs[0]
        return self.casts[key]


def _touches_float(node: ir.Node) -> bool:
    return any(_is_float(value) for value in (*node.inputs, *node.outputs))


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == FLOAT
