"""Softmax(Q K^T s + mask) V, head by head -> MultiHeadAttention(Q, K, V, mask), one operator with the raw mask.

onnxscript's rules (ort_fusions.sdpa and mha) know the mask as an addend only, which they spread over all queries; in
fp16 its -3.4e38 would be no number. These know what it was made of:

1. (1 - mask) * least goes to the operator as `mask`, zeros and ones in int32, with `least` as its mask_filter_value. A
   row that is all padding then attends to all keys alike, as it did: the least number swallows any score.
2. A mask that depends on the query, as a causal one does, is [batch, queries, keys]; any other is [batch, keys]. Rows
   that were selected of a mask are selected of its zeros and ones.
3. A scale is an attribute. Where there is none, since it is in the weights, the attribute is 1.
4. Keys and values of earlier tokens are inputs, all keys and values then outputs. Where they have heads already, as
   those of an encoder's output do, they are taken as they are.
5. Scores that LowerPrecision left in fp32 are IN_FLOAT32: the operator would compute them in fp16.

DecoderMaskedMultiHeadAttention is not for these graphs: it takes one token, and past and present in one buffer of a
length fixed before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript.rewriter import pattern

from rpln_graphs.rewriting.base import (
    ATTENTIONS,
    CROSS_ATTENTIONS,
    HEAD_MASK,
    IN_FLOAT32,
    RELATIVE_POSITIONS,
    GraphTraits,
    Refusal,
)
from rpln_graphs.rewriting.contrib import DOMAIN, FLOATS, ContribPass, same_size, same_sizes, set_type
from rpln_graphs.rewriting.projections import is_constant

BATCH, HEADS, QUERIES, KEYS = range(4)
"""The axes of scores, and of a mask."""
WHOLE: Final = frozenset({ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64})
"""Types of masks that were not made for adding."""
SELECTING: Final = frozenset({"Gather", "Slice"})
"""What SelectRows may have put behind a mask."""

GIVEN_OUT: Final = "the operator does not give its probabilities"
NO_HEAD_MASK: Final = "the operator has no mask of heads"
SELF, CROSS = "self-attention", "cross-attention"
OTHERWISE: Final[Mapping[str, Mapping[str, str]]] = {
    SELF: {
        RELATIVE_POSITIONS: "the operator's scores have no part that depends on distance and query",
        ATTENTIONS: GIVEN_OUT,
        HEAD_MASK: NO_HEAD_MASK,
    },
    CROSS: {CROSS_ATTENTIONS: GIVEN_OUT, HEAD_MASK: NO_HEAD_MASK},
}
"""With which features of a network which of its attentions stay as they are, and why."""


class FuseMultiHeadAttention(ContribPass):
    """Counts the attentions."""

    anchor: ClassVar[str] = "Softmax"

    def rules(self) -> pattern.RewriteRuleSet:
        return _RULES

    def formula(self, traits: GraphTraits) -> int:
        """One in each layer, and one for cross-attention, but for those of which OTHERWISE tells why not."""
        kinds = [SELF, CROSS] if traits.cross_attention else [SELF]
        return traits.layers * sum(traits.features.isdisjoint(OTHERWISE[kind]) for kind in kinds)

    def refusals(self, model: ir.Model) -> list[Refusal]:
        """As the rules say, but for what no rule could tell (rule 5)."""
        anchors = {node.name: node for node in model.graph if node.op_type == self.anchor}
        return [
            Refusal(node=refusal.node, reason=_reason(anchors[refusal.node]) or refusal.reason)
            for refusal in super().refusals(model)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mask:
    """[batch, 1, queries or 1, keys]: `ones`, or a `selection` of them, where a query may look.

    `least` is added to its scores elsewhere.
    """

    ones: ir.Value
    least: float
    shape: ir.Shape
    selection: ir.Node | None = None

    @classmethod
    def from_addend(cls, addend: ir.Value) -> "_Mask | None":
        """What `addend` was made of: (1 - Cast(ones)) * least (rule 1)."""
        selection = addend.producer()
        if selection is None or selection.op_type not in SELECTING or selection.domain:
            selection = None
        inverted, least = _operands(addend if selection is None else selection.inputs[0], "Mul")
        one, ones = _operands(_uncast(inverted), "Sub")
        ones, number = _uncast(ones), _number(least)
        if ones is None or addend.shape is None or ones.dtype not in WHOLE or _number(one) != 1 or number is None:
            return None
        return cls(ones=ones, least=number, shape=addend.shape, selection=selection)

    def fits(self, scores: ir.Shape) -> bool:
        """Whether the operator takes it for scores of this shape."""
        if len(self.shape) != len(scores) or self.shape[HEADS] != 1:
            return False
        per_query = [BATCH, KEYS] if self.shape[QUERIES] == 1 else [BATCH, QUERIES, KEYS]
        return all(same_size(self.shape[axis], scores[axis]) for axis in per_query)

    def operand(self, op: Any) -> ir.Value:
        """The operator's mask, made by new nodes (rule 2)."""
        ones, name = self.ones, self.ones.name
        if self.selection is not None:
            select, others = getattr(op, self.selection.op_type), self.selection.inputs[1:]
            ones = set_type(
                select(ones, *others, **self.selection.attributes, _outputs=[f"{name}.rows"]), ones.dtype, self.shape
            )
        dropped = [HEADS, QUERIES] if self.shape[QUERIES] == 1 else [HEADS]
        shape = [size for axis, size in enumerate(self.shape) if axis not in dropped]
        flat = _before_unsqueeze(ones, dropped)
        if flat is None:
            axes = op.Constant(value_ints=dropped, _outputs=[f"axes.{'x'.join(map(str, dropped))}"])
            set_type(axes, ir.DataType.INT64, [len(dropped)])
            flat = set_type(op.Squeeze(ones, axes, _outputs=[f"{ones.name}.flat"]), ones.dtype, shape)
        return set_type(op.Cast(flat, to=ir.DataType.INT32, _outputs=[f"{flat.name}.int32"]), ir.DataType.INT32, shape)


def _check(_context: Any, **match: Any) -> pattern.MatchResult:
    result = pattern.MatchResult()
    given = [match[name] for name in ("query", "key", "value", "past_key", "past_value") if match.get(name) is not None]
    if given[0].dtype not in FLOATS or any(value.dtype != given[0].dtype for value in (*given, match["attended"])):
        return result.fail("queries, keys and values are not of one floating type")
    if not _have_heads(match):
        return result.fail("queries, keys and values are not known to have the same texts, tokens and heads")
    scale, addend = match.get("scale"), match.get("mask")
    if scale is not None and not _number(scale):
        return result.fail("its scale is no constant, or none at all")
    if addend is not None:
        mask = _Mask.from_addend(addend)
        if mask is None:
            return result.fail("what is added to its scores is not (1 - whole numbers) times a constant")
        if not mask.fits(match["products"].shape):
            return result.fail("its mask is not known to be for each text, and for all heads alike")
    return result


def _rewrite(op: Any, **match: Any) -> ir.Value | Sequence[ir.Value]:
    addend, scale = match.get("mask"), match.get("scale")
    mask = None if addend is None else _Mask.from_addend(addend)
    past = [match.get("past_key"), match.get("past_value")]
    attributes = {} if mask is None else {"mask_filter_value": mask.least}
    outputs: ir.Value | Sequence[ir.Value] = op.MultiHeadAttention(
        match["query"],
        match["key"],
        match["value"],
        None,  # bias
        None if mask is None else mask.operand(op),
        None,  # addend to scores
        *(past if past[0] is not None else ()),
        num_heads=match["query_heads"].shape[2],
        scale=1.0 if scale is None else _number(scale),  # rule 3
        **attributes,
        _domain=DOMAIN,
        _outputs=1 if past[0] is None else 3,
    )
    return outputs


def _have_heads(match: Mapping[str, Any]) -> bool:
    """Whether shapes are what the operator takes for granted: the same texts, tokens and heads."""
    found = {name: value.shape for name, value in match.items() if isinstance(value, ir.Value)}
    if found["query_heads"] is None or len(found["query_heads"]) != 4:
        return False
    texts, _, heads, size = found["query_heads"]
    if not isinstance(heads, int) or not isinstance(size, int):
        return False
    flat, apart, ready = [texts, None, heads * size], [texts, None, heads, size], [texts, heads, None, size]
    wanted = dict.fromkeys(("query", "attended"), flat)
    wanted |= dict.fromkeys(("key", "value"), flat if "key_heads" in found else ready)
    wanted |= dict.fromkeys(("query_heads", "key_heads", "value_heads"), apart)
    wanted |= dict.fromkeys(("past_key", "past_value"), ready)
    return (
        all(_is_shape(shape, wanted[name]) for name, shape in found.items() if name in wanted)
        and same_sizes(found["key"], found["value"])
        and ("past_key" not in found or same_sizes(found["past_key"], found["past_value"]))
    )


def _is_shape(shape: ir.Shape | None, sizes: Sequence[int | ir.SymbolicDim | None]) -> bool:
    """Whether `shape` is known to be that, None standing for any size."""
    if shape is None or len(shape) != len(sizes):
        return False
    return all(size is None or same_size(one, size) for one, size in zip(shape, sizes, strict=True))


def _before_unsqueeze(value: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    """What `value` was before an Unsqueeze gave it `axes`; None where there was none."""
    node = value.producer()
    if node is None or node.op_type != "Unsqueeze" or node.inputs[1] is None or node.inputs[1].const_value is None:
        return None
    return node.inputs[0] if node.inputs[1].const_value.numpy().tolist() == list(axes) else None


def _operands(value: ir.Value | None, operator: str) -> tuple[ir.Value | None, ir.Value | None]:
    """The two that `operator` made `value` of; nothing where another one did."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != operator or node.domain:
        return None, None
    one, two = node.inputs
    return one, two


def _uncast(value: ir.Value | None) -> ir.Value | None:
    """What `value` was before any Cast."""
    while value is not None and (node := value.producer()) is not None and node.op_type == "Cast":
        value = node.inputs[0]
    return value


def _number(value: ir.Value | None) -> float | None:
    """The number that a constant holds; None where it holds more, or may be another."""
    if not is_constant(value):
        return None
    assert value is not None
    assert value.const_value is not None
    return float(value.const_value.numpy().item()) if value.const_value.size == 1 else None


def _reason(softmax: ir.Node) -> str | None:
    """Why it cannot be inside the operator, whatever is around it."""
    probabilities = softmax.outputs[0]
    if probabilities.is_graph_output() or len(probabilities.uses()) > 1:
        return GIVEN_OUT
    return IN_FLOAT32 if _is_widened(softmax) else None


def _is_widened(softmax: ir.Node) -> bool:
    """Whether its scores are a product of what was cast to fp32 (rule 5)."""
    node: ir.Node | None = softmax
    while node is not None and node.op_type in {"Softmax", "Add", "Mul"}:
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.op_type != "MatMul" or node.outputs[0].dtype != ir.DataType.FLOAT:
        return False
    producers = [value.producer() for value in node.inputs if value is not None]
    return any(producer is not None and producer.op_type == "Cast" for producer in producers)


def _heads(op: Any, projected: Any, name: str) -> Any:
    """[batch, tokens, heads, size] called `name`, then heads before tokens."""
    return op.Transpose(op.Reshape(projected, pattern.ANY_VALUE, _outputs=[name]), perm=[0, 2, 1, 3])


def _projected(op: Any, key: Any, value: Any, _past_key: Any, _past_value: Any) -> Any:
    """Keys, last axis before tokens, and values, as projected from the same tokens."""
    heads = op.Reshape(key, pattern.ANY_VALUE, _outputs=["key_heads"])
    return op.Transpose(heads, perm=[0, 2, 3, 1]), _heads(op, value, "value_heads"), ()


def _continued(op: Any, key: Any, value: Any, past_key: Any, past_value: Any) -> Any:
    """Those of earlier tokens and these, which are given out as well (rule 4)."""
    keys = op.Concat(past_key, _heads(op, key, "key_heads"), axis=-2)
    values = op.Concat(past_value, _heads(op, value, "value_heads"), axis=-2)
    return op.Transpose(keys, perm=[0, 1, 3, 2]), values, (keys, values)


def _stored(op: Any, key: Any, value: Any, _past_key: Any, _past_value: Any) -> Any:
    """Those that have their heads (rule 4)."""
    return op.Transpose(key, perm=[0, 1, 3, 2]), value, ()


def _rule(name: str, keys_and_values: Callable[..., Any]) -> pattern.RewriteRule:
    def attention(  # noqa: PLR0917 - onnxscript binds what it finds to these names
        op: Any, query: Any, key: Any, value: Any, past_key: Any, past_value: Any, scale: Any, mask: Any
    ) -> Any:
        keys, values, given = keys_and_values(op, key, value, past_key, past_value)
        products = op.MatMul(_heads(op, query, "query_heads"), keys, _outputs=["products"])
        scaled = pattern.OrValue([op.Mul(products, scale), products])
        scores = pattern.OrValue([op.Cast(scaled), scaled])  # fp16 scores meet their mask in fp32
        masked = pattern.OrValue([op.Add(scores, mask), scores])
        probabilities = op.Softmax(masked, axis=-1)
        weights = pattern.OrValue([op.Cast(probabilities), probabilities])
        attended = op.Transpose(op.MatMul(weights, values), perm=[0, 2, 1, 3])
        return (op.Reshape(attended, pattern.ANY_VALUE, _outputs=["attended"]), *given)

    return pattern.RewriteRule(attention, _rewrite, _check, name=name)


_RULES: Final = pattern.RewriteRuleSet(
    [
        _rule("attention to earlier tokens", _continued),
        _rule("attention", _projected),
        _rule("attention to keys with heads", _stored),
    ]
)
