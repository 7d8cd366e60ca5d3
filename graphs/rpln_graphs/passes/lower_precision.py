"""float graph -> strongly typed fp16 or bf16 graph: types are written into the graph, with a Cast at each boundary.

Rules:
1. A node computes in the lower type unless its operator is in FLOAT_OPERATORS, or any of its float inputs, outputs or
   weights was measured beyond what the lower type safely holds; then it stays fp32. (Mask arithmetic with -3.4e38 stays
   fp32 by this rule, and so does a feed-forward block whose activation passes 65,504.)
2. LayerNormalization computes its statistics in fp32 by its own stash_type = 1.
3. Initializers are stored in the lower type unless all of their readers stay fp32: no weight is stored twice.
4. Graph inputs and outputs get the I/O type; integers stay integers. Keys and values that decoder graphs hand on stay
   in the lower type, or fp32 where they were measured beyond it, whatever the I/O type.

Metadata of the model tells the type, and which MatMul stayed fp32 and how far its values reach.
"""

import json
import re
from collections.abc import Callable
from typing import Final, Self

import onnx_ir as ir

from rpln_graphs.rewriting.base import FLOAT16_MAX, HEADROOM, Context, CountingPass, Ranges
from rpln_graphs.rewriting.initializers import change_initializer

FLOAT: Final = ir.DataType.FLOAT
SAFE_RANGE: Final = {
    ir.DataType.FLOAT16: FLOAT16_MAX / HEADROOM,
    ir.DataType.BFLOAT16: 3.3895e38 / HEADROOM,
}
FLOAT_OPERATORS: Final = {
    ir.DataType.FLOAT16: frozenset({"Softmax"}),
    ir.DataType.BFLOAT16: frozenset({"Softmax", "Einsum"}),  # ONNX's Einsum takes no bf16
}
CACHED: Final = re.compile(r"(past_key_values|present|cross_key_values)\.(\d+\.(?:key|value))")
KEPT_KEY: Final = "rpln.kept_float"


class LowerPrecision(CountingPass):
    """Counts the nodes that compute in the lower type."""

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
        typing = _Typing(model, self.dtype, self._boundary_type, lowered=set(lowered))
        typing.type_inputs()
        typing.type_initializers()
        typing.type_nodes()
        typing.type_outputs()
        matmuls = {node.name: reach for node, reach in kept.items() if node.op_type in {"MatMul", "Gemm"}}
        model.metadata_props[KEPT_KEY] = json.dumps(matmuls)
        return len(lowered)

    def _boundary_type(self, value: ir.Value) -> ir.DataType:
        """The type of a float input or output (rule 4)."""
        place = CACHED.fullmatch(value.name or "")
        if place is None:
            return self.io_dtype
        # A past comes from an earlier step's present, and has its range.
        origins = {"past_key_values", "present"} if place[1] != "cross_key_values" else {place[1]}
        reach = max((self.ranges or {}).get(f"{origin}.{place[2]}", 0.0) for origin in origins)
        return FLOAT if reach > SAFE_RANGE[self.dtype] else self.dtype

    def _reach_if_kept(self, node: ir.Node) -> float | None:
        """How far the values of `node` reach if that, or its operator, keeps it in fp32 (rule 1); else None."""
        if not _touches_float(node):
            return None
        reach = 0.0
        if self.ranges is not None:
            values = (value for value in (*node.inputs, *node.outputs) if value is not None and _is_float(value))
            reach = max(self.ranges[value.name or ""] for value in values)
        return reach if reach > SAFE_RANGE[self.dtype] or node.op_type in FLOAT_OPERATORS[self.dtype] else None


class _Typing:
    """One run over a graph; values are retyped from the inputs down, so each reader knows what it is given."""

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
        for value in self.graph.inputs:
            if _is_float(value):
                value.dtype = self.boundary_type(value)

    def type_initializers(self) -> None:
        for value in self.graph.initializers.values():
            if _is_float(value) and any(use.node in self.lowered for use in value.uses()):
                change_initializer(value, lambda array: array.astype(self.dtype.numpy()), dtype=self.dtype)

    def type_nodes(self) -> None:
        for node in list(self.graph):
            wanted = self.dtype if node in self.lowered else FLOAT
            for position, value in enumerate(node.inputs):
                if value is not None and value.dtype in {FLOAT, *SAFE_RANGE} and value.dtype != wanted:
                    node.replace_input_with(position, self._cast(value, wanted, before=node))
            for value in node.outputs:
                if _is_float(value):
                    value.dtype = wanted
            if node.op_type == "Cast" and node.attributes["to"].as_int() == FLOAT:
                node.attributes["to"] = ir.AttrInt64("to", wanted)

    def type_outputs(self) -> None:
        for position, value in enumerate(self.graph.outputs):
            wanted = self.boundary_type(value)
            if value.dtype in {FLOAT, *SAFE_RANGE} and value.dtype != wanted:
                name = value.name
                value.name = f"{name}.{value.dtype.name.lower()}"
                node = _cast_node(value, wanted, name or "")
                self.graph.append(node)
                self.graph.outputs[position] = node.outputs[0]

    def _cast(self, value: ir.Value, dtype: ir.DataType, *, before: ir.Node) -> ir.Value:
        key = (value, dtype)
        if key not in self.casts:
            node = _cast_node(value, dtype, f"{value.name}.{dtype.name.lower()}")
            self.graph.insert_before(before, node)
            self.casts[key] = node.outputs[0]
        return self.casts[key]


def _cast_node(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": ir.AttrInt64("to", dtype)}, name=f"{name}.Cast")
    output = node.outputs[0]
    output.name, output.shape, output.type = name, value.shape, ir.TensorType(dtype)
    return node


def _touches_float(node: ir.Node) -> bool:
    return any(_is_float(value) for value in (*node.inputs, *node.outputs))


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == FLOAT
