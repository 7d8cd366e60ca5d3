"""Nodes that compute each token of [texts, sequence, size] by itself, and can compute packed tokens just as well.

Packed tokens, [1, tokens, size], are the real tokens of all texts one after another.
"""

from typing import Final

import onnx_ir as ir

from rpln_graphs.rewriting.rowwise import ELEMENTWISE
from rpln_graphs.rewriting.values import axis_of, maker, rank, same_shape

TOKENS: Final = "packing.tokens"
"""The name of the axis of packed tokens."""
RANK: Final = 3
"""The number of axes of [texts, sequence, size]."""

PRODUCTS: Final = frozenset({"MatMul", "MatMulInteger"})
PER_TOKEN: Final = (
    ELEMENTWISE
    | PRODUCTS
    | {"Gather", "LayerNormalization", "SkipLayerNormalization", "BiasGelu", "FastGelu"}
    | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
)
"""The operators that may compute each token by itself, depending on the rest of the node."""
DOMAINS: Final = frozenset({"", "com.microsoft"})


def computes_tokens(node: ir.Node, texts: ir.Shape) -> bool:
    """Return whether each token of the node's result is computed from that token of its operands only.

    `texts` is the shape [texts, sequence].
    """
    if node.op_type not in PER_TOKEN or node.domain not in DOMAINS or not has_tokens(node.outputs[0], texts):
        return False
    if node.op_type == "Gather":  # a lookup of embeddings
        table, indices = node.inputs
        return indices is not None and same_shape(indices.shape, texts) and _is_weight(table) and not _axis(node, 0)
    if node.op_type == "LayerNormalization" and _axis(node, -1) != RANK - 1:
        return False
    tokens, *others = (value for value in node.inputs if value is not None)
    if node.op_type in PRODUCTS:
        return has_tokens(tokens, texts) and _is_weight(others[0]) and rank(others[0]) == 2
    return all(has_tokens(value, texts) or rank(value) in {0, 1} for value in (tokens, *others))


def has_tokens(value: ir.Value, texts: ir.Shape) -> bool:
    """Return whether `value` is [texts, sequence, size], or packed already."""
    if value.shape is None or len(value.shape) != RANK:
        return False
    return is_packed(value) or (same_shape(value.shape[:2], texts) and isinstance(value.shape[2], int))


def is_packed(value: ir.Value | None) -> bool:
    """Return whether `value` is [1, tokens, size]."""
    return value is not None and value.shape is not None and value.shape[1:2] == (ir.SymbolicDim(TOKENS),)


def _is_weight(value: ir.Value | None) -> bool:
    """Return whether `value` is an initializer, or one that is transposed (a tied embedding), cast or dequantized."""
    node = maker(value, "Transpose", "DequantizeLinear", "Cast")
    return _is_weight(node.inputs[0]) if node is not None else value is not None and value.is_initializer()


def _axis(node: ir.Node, default: int) -> int:
    return axis_of(node, default=default, rank=RANK)
