"""LayerNormalization(x + (block + bias)) -> SkipLayerNormalization(block, x, bias), which also gives the sum.

onnxscript's patterns find the sums, in either order, with a bias or without. What its rules then ask of the summands
falls short in two ways: they must be of one shape by name, where batch*choices is not choices*batch, and neither may be
a single text, as positions are where there are no input_ids. So:

1. Summands of one shape are those whose axes are of the same sizes. One of them may have a batch of one.
2. The statistics that the operator could return are left out.

In fp16 on CUDA the operator sums squares in fp16 unless the provider's option enable_skip_layer_norm_strict_mode is
set; LayerNormalization's stash_type has no counterpart in it.
"""

import itertools
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript.rewriter import pattern
from onnxscript.rewriter.ort_fusions.skip_normalization import SkipLayerNormFusion

from rpln_graphs.rewriting.base import RELATIVE_POSITIONS, TOKEN_TYPES, GraphTraits, Refusal
from rpln_graphs.rewriting.contrib import DOMAIN, FLOATS, ContribPass, same_sizes, set_type

OPERANDS: Final = ("input", "skip", "gamma", "beta", "bias")
"""Of the operator, in its order, by the names that onnxscript's patterns give them."""


class FuseSkipLayerNorm(ContribPass):
    """Counts the LayerNorms of the residual stream that read a sum, and that of the embeddings."""

    anchor: ClassVar[str] = "LayerNormalization"

    def rules(self) -> pattern.RewriteRuleSet:
        return _RULES

    def formula(self, traits: GraphTraits) -> int:
        """One behind each block, and one behind the embeddings unless nothing is added to those of words."""
        blocks = 3 if traits.cross_attention else 2
        words_alone = RELATIVE_POSITIONS in traits.features and TOKEN_TYPES not in traits.features
        return blocks * traits.layers + (1 if traits.layers and not words_alone else 0)

    def refusals(self, model: ir.Model) -> list[Refusal]:
        """Of LayerNorms that read a sum: of others nothing was expected."""
        summing = {node.name for node in model.graph if node.op_type == self.anchor and _reads_sum(node)}
        return [refusal for refusal in super().refusals(model) if refusal.node in summing]


def _check(_context: Any, **match: Any) -> pattern.MatchResult:
    result = pattern.MatchResult()
    norm = match["layer_norm"].producer()
    total, operands = norm.inputs[0], [match[name] for name in OPERANDS if match.get(name) is not None]
    if total.dtype not in FLOATS or any(operand.dtype != total.dtype for operand in operands):
        return result.fail("its operands are not of one floating type")
    if total.shape is None or len(total.shape) != 3:
        return result.fail("it does not normalize tokens of texts, of three axes")
    if not all(same_sizes(operand.shape, total.shape[-1:]) for operand in operands[2:]):
        return result.fail("weight and biases are not as long as the last axis")
    if norm.attributes.get_int("stash_type", 1) != 1:
        return result.fail("its statistics are not computed in fp32")
    if not any(_is_skip(*summands) for summands in itertools.permutations(operands[:2])):
        return result.fail("the summands are not known to be of one shape")
    return result


def _rewrite(op: Any, **match: Any) -> tuple[ir.Value, ir.Value]:
    summand, skip, *parameters = (match.get(name) for name in OPERANDS)
    assert isinstance(summand, ir.Value)
    assert isinstance(skip, ir.Value)
    if not _is_skip(summand, skip):
        summand, skip = skip, summand
    norm = match["layer_norm"]
    epsilon = norm.producer().attributes.get_float("epsilon", 1e-5)
    normalized, *statistics, total = op.SkipLayerNormalization(
        summand, skip, *parameters, epsilon=epsilon, _domain=DOMAIN, _outputs=4
    )
    for statistic in statistics:  # rule 2
        set_type(statistic, ir.DataType.FLOAT, [*norm.shape[:-1], 1])
    return normalized, total


def _is_skip(summand: ir.Value, skip: ir.Value) -> bool:
    """Whether the operator can add `skip` to `summand` (rule 1)."""
    if skip.shape is None or summand.shape is None:
        return False
    return same_sizes(skip.shape, summand.shape) or (
        skip.shape[:1] == (1,) and same_sizes(ir.Shape(skip.shape[1:]), ir.Shape(summand.shape[1:]))
    )


def _reads_sum(node: ir.Node) -> bool:
    read = node.inputs[0]
    producer = None if read is None else read.producer()
    return producer is not None and producer.op_type == "Add"


def _rule(name: str, **kinds: bool) -> pattern.RewriteRule:
    return pattern.RewriteRule(SkipLayerNormFusion(name, **kinds).pattern, _rewrite, _check, name=name)


_RULES: Final = pattern.RewriteRuleSet(
    [
        _rule("a block and its bias", has_bias=True, bias_pre_add=True),
        _rule("a sum and a bias", has_bias=True),
        _rule("a sum"),
    ]
)
