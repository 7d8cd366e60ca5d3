"""LayerNormalization(x + (block + bias)) -> SkipLayerNormalization(block, x, bias), which also returns the sum.

onnxscript's patterns find the sums, in either order, with a bias or without. The conditions of its rules are too
narrow: they compare shapes by name, where batch*choices is not choices*batch, and refuse a summand of a single text,
such as the positions in a graph without input_ids. Rules:

1. The summands must have the same sizes; one of them may have a batch of 1.
2. The operator also returns the statistics of the norm, which nobody reads; they only need a type.

In fp16 on CUDA the operator sums squares in fp16 unless the provider's option enable_skip_layer_norm_strict_mode is
set; it has no counterpart of LayerNormalization's stash_type.
"""

from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript.rewriter import pattern
from onnxscript.rewriter.ort_fusions.skip_normalization import SkipLayerNormFusion

from rpln_graphs.rewriting.base import Refusal
from rpln_graphs.rewriting.fusing import DOMAIN, FLOATS, FusingPass, rule
from rpln_graphs.rewriting.nodes import set_type
from rpln_graphs.rewriting.traits import RELATIVE_POSITIONS, TOKEN_TYPES, GraphTraits
from rpln_graphs.rewriting.values import maker, operand, same_shape

MIXED_TYPES: Final = "its operands are not of one floating type"
OTHER_RANK: Final = "its input does not have three axes: texts, tokens and size"
OTHER_LENGTH: Final = "its weight or a bias is not as long as the last axis"
LOWER_STASH_TYPE: Final = "its statistics are not computed in fp32"
OTHER_SHAPES: Final = "its summands are not known to have one shape"


class FuseSkipLayerNorm(FusingPass):
    """A pass that fuses a sum and its LayerNorm. It counts those of the residual stream and of the embeddings."""

    anchor: ClassVar[str] = "LayerNormalization"

    def rules(self) -> pattern.RewriteRuleSet:
        return _RULES

    def formula(self, traits: GraphTraits) -> int:
        """Return one for each block, and one for the embeddings unless these are word embeddings alone."""
        words_alone = RELATIVE_POSITIONS in traits.features and TOKEN_TYPES not in traits.features
        return traits.blocks + (1 if traits.layers and not words_alone else 0)

    def refusals(self, model: ir.Model) -> list[Refusal]:
        """Return the LayerNorms left that read a sum; no other was expected to be fused."""
        norms = (node for node in model.graph if node.op_type == self.anchor)
        summing = {node.name for node in norms if maker(node.inputs[0], "Add") is not None}
        return [refusal for refusal in super().refusals(model) if refusal.node in summing]


# onnxscript's patterns call the summands `input` and `skip`, and the parameters of the norm `gamma` and `beta`.


def _obstacle(
    *,
    input: ir.Value,
    skip: ir.Value,
    gamma: ir.Value,
    beta: ir.Value | None,
    bias: ir.Value | None,
    layer_norm: ir.Value,
    **_: Any,
) -> str | None:
    norm, parameters = layer_norm.producer(), [value for value in (gamma, beta, bias) if value is not None]
    assert norm is not None
    total = operand(norm, 0)
    if total.dtype not in FLOATS or any(value.dtype != total.dtype for value in (input, skip, *parameters)):
        return MIXED_TYPES
    if total.shape is None or len(total.shape) != 3:
        return OTHER_RANK
    if not all(same_shape(value.shape, total.shape[-1:]) for value in parameters):
        return OTHER_LENGTH
    if norm.attributes.get_int("stash_type", 1) != 1:
        return LOWER_STASH_TYPE
    return None if _is_skip(input, skip) or _is_skip(skip, input) else OTHER_SHAPES


def _rewrite(
    op: Any,
    *,
    input: ir.Value,
    skip: ir.Value,
    gamma: ir.Value,
    beta: ir.Value | None,
    bias: ir.Value | None,
    layer_norm: ir.Value,
    **_: Any,
) -> tuple[ir.Value, ir.Value]:
    norm = layer_norm.producer()
    assert norm is not None
    assert layer_norm.shape is not None
    summands = (input, skip) if _is_skip(input, skip) else (skip, input)
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    normalized, *statistics, total = op.SkipLayerNormalization(
        *summands, gamma, beta, bias, epsilon=epsilon, _domain=DOMAIN, _outputs=4
    )
    for statistic in statistics:  # rule 2
        set_type(statistic, ir.DataType.FLOAT, [*layer_norm.shape[:-1], 1])
    return normalized, total


def _is_skip(summand: ir.Value, skip: ir.Value) -> bool:
    """Return whether the operator can add `skip` to `summand` (rule 1)."""
    if skip.shape is None or summand.shape is None:
        return False
    return same_shape(skip.shape, summand.shape) or (
        skip.shape[:1] == (1,) and same_shape(skip.shape[1:], summand.shape[1:])
    )


def _rule(name: str, **kinds: bool) -> pattern.RewriteRule:
    return rule(name, SkipLayerNormFusion(name, **kinds).pattern, _rewrite, _obstacle)


_RULES: Final = pattern.RewriteRuleSet(
    [
        _rule("a block and its bias", has_bias=True, bias_pre_add=True),
        _rule("a sum and a bias", has_bias=True),
        _rule("a sum"),
    ]
)
