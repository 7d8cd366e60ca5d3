"""Attention as it is traced, Softmax(Q K^T s + mask) V: how it is found, and which attentions no operator computes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import onnx_ir as ir

from rpln_graphs.rewriting.base import IN_FLOAT32, ExplainingPass
from rpln_graphs.rewriting.traits import (
    ATTENTIONS,
    CROSS_ATTENTIONS,
    HEAD_MASK,
    RELATIVE_POSITIONS,
    GraphTraits,
)
from rpln_graphs.rewriting.values import maker, number, operand, other_operand, permutation, sole_reader

OF_SELF: Final = frozenset({RELATIVE_POSITIONS, ATTENTIONS, HEAD_MASK})
"""The features with which self-attentions cannot be fused."""
OF_CROSS: Final = frozenset({CROSS_ATTENTIONS, HEAD_MASK})
"""The features with which cross-attentions cannot be fused."""

HEADS_FIRST: Final = (0, 2, 1, 3)
TURNED: Final = (0, 1, 3, 2)
HEADS_FIRST_TURNED: Final = (0, 2, 3, 1)
"""Permutations: [B, T, H, K] to [B, H, T, K], [B, H, T, K] to [B, H, K, T], and both in one."""

OTHER_AXIS: Final = "it is not over the last axis"
SCORES_READ: Final = "its scores have other readers"
OTHER_SCORES: Final = "its scores are not a product with one scale and one mask, or have other readers"
PROBABILITIES_READ: Final = "its probabilities are an output, or are read by more than the product with the values"
KEYS_NOT_TURNED: Final = "its keys are not transposed over four axes"

GIVEN_OUT: Final = "the fused operator does not return its probabilities in every runtime"


class AttentionPass(ExplainingPass):
    """A pass that fuses attentions, and counts them."""

    unless: ClassVar[Mapping[str, str]] = {
        RELATIVE_POSITIONS: "the fused operator adds no scores that depend on distance and query",
        ATTENTIONS: GIVEN_OUT,
        CROSS_ATTENTIONS: GIVEN_OUT,
        HEAD_MASK: "the fused operator has no mask of heads",
    }

    def formula(self, traits: GraphTraits) -> int:
        """Return one for each layer, or two with cross-attention."""
        return traits.attentions

    def expected(self, traits: GraphTraits) -> int:
        """Return the formula's count without the self- or cross-attentions that a feature makes exceptions."""
        return traits.attentions_except(of_self=OF_SELF, of_cross=OF_CROSS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedAttention:
    """The values and nodes around the Softmax of an attention.

    `turned` is the Transpose of the keys, `context` the product with the values. With B texts, H heads, T queries, S
    keys and head size K, `query` is [B, H, T, K], `value` is [B, H, S, K], and `mask` broadcasts to [B, H, T, S].
    """

    query: ir.Value
    turned: ir.Node
    value: ir.Value
    mask: ir.Value | None
    scale: float
    context: ir.Node


def attention_around(softmax: ir.Node) -> TracedAttention | str:
    """Return the attention that `softmax` belongs to, or the reason why it is none that an operator computes."""
    found = _scores_of(softmax)
    if isinstance(found, str):
        return found
    product, mask, scale = found
    context = _context_of(softmax.outputs[0])
    if context is None:
        return PROBABILITIES_READ
    query, keys, value = operand(product, 0), operand(product, 1), operand(context, 1)
    if any(_is_widened(factor) for factor in (query, keys, value)):
        return IN_FLOAT32
    turned = maker(keys, "Transpose")
    if turned is None or permutation(turned) not in {TURNED, HEADS_FIRST_TURNED}:
        return KEYS_NOT_TURNED
    return TracedAttention(query=query, turned=turned, value=value, mask=mask, scale=scale, context=context)


def sole_maker(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """Return the node that computes `value` if it is one of `operators` and only one node reads `value`, else None."""
    return maker(value, *operators) if value is not None and sole_reader(value) is not None else None


def _scores_of(softmax: ir.Node) -> tuple[ir.Node, ir.Value | None, float] | str:
    """Return the product of queries and keys before `softmax`, its mask and its scale; or why there is no product."""
    if softmax.attributes.get_int("axis", -1) not in {-1, 3}:
        return OTHER_AXIS
    masked = operand(softmax, 0)
    add = maker(masked, "Add")
    branches: list[tuple[ir.Value, ir.Value | None]] = [(masked, None)]
    if add is not None:
        if sole_reader(masked) is None:
            return SCORES_READ
        first, second = operand(add, 0), operand(add, 1)
        branches = [(first, second), (second, first)]
    for scores, mask in branches:
        found = _product_of(scores)
        if found is not None:
            return found[0], mask, found[1]
    return OTHER_SCORES


def _product_of(scores: ir.Value) -> tuple[ir.Node, float] | None:
    """Return the product that `scores` are, and the number it is multiplied by; None if they are anything else."""
    node, scale = sole_maker(scores, "Cast", "Mul", "MatMul"), 1.0
    if node is not None and node.op_type == "Cast":
        node = sole_maker(node.inputs[0], "Mul", "MatMul")
    if node is not None and node.op_type == "Mul":
        factor = _factor_of(node)
        if factor is None:
            return None
        scale = factor[1]
        node = sole_maker(other_operand(node, factor[0]), "MatMul")
    return (node, scale) if node is not None and node.op_type == "MatMul" and scale > 0 else None


def _factor_of(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return the input of `node` that is a constant number, or a Cast of one, with that number."""
    for factor in node.inputs:
        cast = maker(factor, "Cast")
        constant = factor if cast is None else cast.inputs[0]
        found = number(constant)
        if factor is not None and constant is not None and constant.shape == ir.Shape(()) and found is not None:
            return factor, found
    return None


def _context_of(probabilities: ir.Value) -> ir.Node | None:
    """Return the product of `probabilities`, maybe cast, with the values; None if anything else reads them."""
    node = sole_reader(probabilities)
    if node is not None and node.op_type == "Cast":
        probabilities = node.outputs[0]
        node = sole_reader(probabilities)
    return node if node is not None and node.op_type == "MatMul" and node.inputs[0] is probabilities else None


def _is_widened(value: ir.Value) -> bool:
    """Return whether `value` was cast to fp32."""
    return value.dtype == ir.DataType.FLOAT and maker(value, "Cast") is not None
