"""Softmax(Q K^T s + mask) V, head by head -> MultiHeadAttention(Q, K, V, mask), one operator with the raw mask.

onnxscript's rules (ort_fusions.sdpa and mha) know the mask as an addend only, and expand it to all queries; in fp16 its
-3.4e38 would be minus infinity. The rules here know what the addend was made of:

1. Of the addend (1 - mask) * least, the operator takes `mask`, zeros and ones in int32, and `least` as its
   mask_filter_value. A text of padding alone then attends to all keys alike, as it did: the lowest number swallows any
   score.
2. A mask that differs from query to query, such as a causal one, is [batch, queries, keys]; any other is [batch, keys].
   If rows of the addend were selected, the same rows of the zeros and ones are.
3. A scale becomes an attribute of the operator. Without one, because the weights contain it, the attribute is 1.
4. Keys and values of earlier tokens are inputs, and all keys and values are outputs. Those that have heads already,
   such as an encoder's, are taken as they are.
5. Scores that LowerPrecision left in fp32 are refused: the operator would compute them in fp16.

DecoderMaskedMultiHeadAttention does not fit: it takes one token, and a buffer of fixed length for past and present.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript.rewriter import pattern

from rpln_graphs.rewriting.attentions import PROBABILITIES_READ, AttentionPass, attention_around
from rpln_graphs.rewriting.base import IN_FLOAT32, Refusal
from rpln_graphs.rewriting.fusing import DOMAIN, FLOATS, FusingPass, rule
from rpln_graphs.rewriting.masks import HEADS, QUERIES, Mask, before_unsqueeze
from rpln_graphs.rewriting.nodes import set_type
from rpln_graphs.rewriting.values import Size, number, same_shape, same_size

INT32: Final = ir.DataType.INT32

MIXED_TYPES: Final = "its queries, keys and values are not of one floating type"
OTHER_HEADS: Final = "its queries, keys and values are not known to have the same texts, tokens and heads"
OTHER_SCALE: Final = "its scale is not a constant other than 0"
OTHER_ADDEND: Final = "its scores are added to something else than (1 - whole numbers) times a constant"
OTHER_MASK: Final = "its mask is not known to be one for each text and the same for all heads"


class FuseMultiHeadAttention(AttentionPass, FusingPass):
    """A pass that makes attention one operator of ONNX Runtime. It counts the attentions that it fused."""

    anchor: ClassVar[str] = "Softmax"

    def rules(self) -> pattern.RewriteRuleSet:
        return _RULES

    def refusals(self, model: ir.Model) -> list[Refusal]:
        """Return the attentions left; the two reasons of `attention_around` go before those of the rules (rule 5)."""
        around = {node.name: attention_around(node) for node in model.graph if node.op_type == self.anchor}
        telling = {name: found for name, found in around.items() if found in (PROBABILITIES_READ, IN_FLOAT32)}
        return [
            Refusal(node=refusal.node, reason=str(telling.get(refusal.node, refusal.reason)))
            for refusal in super().refusals(model)
        ]


# -- what is matched -------------------------------------------------------------------------------------------------


def _heads(op: Any, projected: Any, name: str) -> Any:
    """Return [batch, heads, tokens, size]; before the Transpose, with tokens first, the value is called `name`."""
    return op.Transpose(op.Reshape(projected, pattern.ANY_VALUE, _outputs=[name]), perm=[0, 2, 1, 3])


def _projected(op: Any, key: Any, value: Any, _past_key: Any, _past_value: Any) -> Any:
    """Return the pattern of keys and values that are projected from the tokens; the keys are transposed already."""
    heads = op.Reshape(key, pattern.ANY_VALUE, _outputs=["key_heads"])
    return op.Transpose(heads, perm=[0, 2, 3, 1]), _heads(op, value, "value_heads"), ()


def _continued(op: Any, key: Any, value: Any, past_key: Any, past_value: Any) -> Any:
    """Return the pattern of keys and values of earlier tokens and of these, which are also outputs (rule 4)."""
    keys = op.Concat(past_key, _heads(op, key, "key_heads"), axis=-2)
    values = op.Concat(past_value, _heads(op, value, "value_heads"), axis=-2)
    return op.Transpose(keys, perm=[0, 1, 3, 2]), values, (keys, values)


def _stored(op: Any, key: Any, value: Any, _past_key: Any, _past_value: Any) -> Any:
    """Return the pattern of keys and values that have their heads already (rule 4)."""
    return op.Transpose(key, perm=[0, 1, 3, 2]), value, ()


def _rule(name: str, keys_and_values: Callable[..., Any]) -> pattern.RewriteRule:
    """Return the rule for attention to the keys and values of a pattern."""

    def attention(
        op: Any, query: Any, key: Any, value: Any, past_key: Any, past_value: Any, scale: Any, addend: Any
    ) -> Any:
        keys, values, given = keys_and_values(op, key, value, past_key, past_value)
        products = op.MatMul(_heads(op, query, "query_heads"), keys, _outputs=["products"])
        scaled = pattern.OrValue([op.Mul(products, scale), products])
        scores = pattern.OrValue([op.Cast(scaled), scaled])  # fp16 scores meet their mask in fp32
        masked = pattern.OrValue([op.Add(scores, addend), scores])
        probabilities = op.Softmax(masked, axis=-1)
        weights = pattern.OrValue([op.Cast(probabilities), probabilities])
        attended = op.Transpose(op.MatMul(weights, values), perm=[0, 2, 1, 3])
        return (op.Reshape(attended, pattern.ANY_VALUE, _outputs=["attended"]), *given)

    return rule(name, attention, _rewrite, _obstacle)


# -- whether it may be replaced --------------------------------------------------------------------------------------


def _obstacle(
    *,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    past_key: ir.Value | None,
    past_value: ir.Value | None,
    scale: ir.Value | None,
    addend: ir.Value | None,
    products: ir.Value,
    attended: ir.Value,
    query_heads: ir.Value,
    key_heads: ir.Value | None = None,
    value_heads: ir.Value | None = None,
) -> str | None:
    given = [one for one in (key, value, past_key, past_value, attended) if one is not None]
    if query.dtype not in FLOATS or any(one.dtype != query.dtype for one in given):
        return MIXED_TYPES
    flat, ready = [query, attended], [key, value]
    if key_heads is not None:
        flat, ready = [*flat, *ready], []
    of_one_shape = _of_one_shape(key, value) and _of_one_shape(past_key, past_value)
    if not of_one_shape or not _have_heads(
        query_heads, flat=flat, apart=[key_heads, value_heads], ready=[*ready, past_key, past_value]
    ):
        return OTHER_HEADS
    if scale is not None and not number(scale):
        return OTHER_SCALE
    mask = None if addend is None else Mask.from_addend(addend)
    if addend is not None and mask is None:
        return OTHER_ADDEND
    fits = mask is None or (products.shape is not None and mask.fits(products.shape))
    return None if fits else OTHER_MASK


def _have_heads(
    query_heads: ir.Value,
    *,
    flat: Sequence[ir.Value],
    apart: Sequence[ir.Value | None],
    ready: Sequence[ir.Value | None],
) -> bool:
    """Return whether all values have the texts, the heads and the head size of `query_heads`, whatever their tokens.

    `flat` are [texts, tokens, hidden], `apart` like the queries [texts, tokens, heads, size], and `ready` are [texts,
    heads, tokens, size].
    """
    if query_heads.shape is None or len(query_heads.shape) != 4:
        return False
    texts, _, heads, size = query_heads.shape
    if not isinstance(heads, int) or not isinstance(size, int):
        return False
    return (
        all(_has_sizes(value, texts, None, heads * size) for value in flat)
        and all(_has_sizes(value, texts, None, heads, size) for value in apart)
        and all(_has_sizes(value, texts, heads, None, size) for value in ready)
    )


def _has_sizes(value: ir.Value | None, *sizes: Size | None) -> bool:
    """Return whether `value` is left out or known to have these sizes, where None stands for any."""
    if value is None:
        return True
    if value.shape is None or len(value.shape) != len(sizes):
        return False
    return all(size is None or same_size(one, size) for one, size in zip(value.shape, sizes, strict=True))


def _of_one_shape(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Return whether both values are left out, or known to have one shape."""
    return same_shape(one.shape, other.shape) if one is not None and other is not None else one is other


# -- what replaces it ------------------------------------------------------------------------------------------------


def _rewrite(
    op: Any,
    *,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    past_key: ir.Value | None,
    past_value: ir.Value | None,
    scale: ir.Value | None,
    addend: ir.Value | None,
    query_heads: ir.Value,
    **_: ir.Value,
) -> ir.Value | Sequence[ir.Value]:
    assert query_heads.shape is not None
    mask = None if addend is None else Mask.from_addend(addend)
    past = () if past_key is None else (past_key, past_value)  # rule 4
    outputs: ir.Value | Sequence[ir.Value] = op.MultiHeadAttention(
        query,
        key,
        value,
        None,  # bias
        None if mask is None else _operand(op, mask),
        None,  # addend to scores
        *past,
        num_heads=query_heads.shape[2],
        scale=1.0 if scale is None else number(scale),  # rule 3
        **({} if mask is None else {"mask_filter_value": mask.least}),  # rule 1
        _domain=DOMAIN,
        _outputs=3 if past else 1,
    )
    return outputs


def _operand(op: Any, mask: Mask) -> ir.Value:
    """Return the operator's mask, made of the zeros and ones by new nodes (rule 2)."""
    ones, name = mask.ones, mask.ones.name
    if mask.selection is not None:
        select, others = getattr(op, mask.selection.op_type), mask.selection.inputs[1:]
        rows = select(ones, *others, **mask.selection.attributes, _outputs=[f"{name}.rows"])
        ones = set_type(rows, ones.dtype, mask.shape)
    dropped = [HEADS, QUERIES] if mask.shape[QUERIES] == 1 else [HEADS]
    shape = [size for axis, size in enumerate(mask.shape) if axis not in dropped]
    flat = before_unsqueeze(ones, dropped)
    if flat is None:
        axes = op.Constant(value_ints=dropped, _outputs=[f"axes.{'x'.join(map(str, dropped))}"])
        set_type(axes, ir.DataType.INT64, [len(dropped)])
        flat = set_type(op.Squeeze(ones, axes, _outputs=[f"{ones.name}.flat"]), ones.dtype, shape)
    return set_type(op.Cast(flat, to=INT32, _outputs=[f"{flat.name}.int32"]), INT32, shape)


_RULES: Final = pattern.RewriteRuleSet(
    [
        _rule("attention to earlier tokens", _continued),
        _rule("attention", _projected),
        _rule("attention to keys with heads", _stored),
    ]
)
