"""SkipLayerNormalization(words[ids], positions[places]) -> EmbedLayerNormalization(ids, words, positions, places).

It comes after FuseSkipLayerNorm. onnxscript has no rule for it, and ONNX Runtime's own optimizer knows only positions
that count up from 0; RoBERTa's skip padding, so they are an input of the operator. Rules:

1. Where token types are an input, they are a third table; elsewhere FoldTokenTypes has put their row into another one.
2. The operator takes ids in int32.
3. In fp16 the operator would compute statistics in fp16, and it has no kernel for bf16: only fp32 is fused.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript.rewriter import pattern

from rpln_graphs.rewriting.base import LOWER_STATISTICS, Refusal
from rpln_graphs.rewriting.fusing import DOMAIN, FusingPass, rule
from rpln_graphs.rewriting.nodes import set_type
from rpln_graphs.rewriting.traits import INPUTS_EMBEDS, RELATIVE_POSITIONS, GraphTraits
from rpln_graphs.rewriting.values import maker, rank, same_shape

NOT_FLOAT32: Final = "its tables are not in fp32"
NO_TABLE: Final = "its tables do not have two axes"
OTHER_IDS: Final = "its ids are not known to belong to the same texts and tokens"
BIAS: Final = "it adds a bias, which FoldTokenTypes removes"


class FuseEmbedLayerNorm(FusingPass):
    """A pass that makes the embeddings one operator. It counts the embeddings that it fused: one."""

    anchor: ClassVar[str] = "SkipLayerNormalization"
    unless: ClassVar[Mapping[str, str]] = {
        INPUTS_EMBEDS: "words are given as vectors, not as ids",
        RELATIVE_POSITIONS: "there is no table of positions",
    }

    def rules(self) -> pattern.RewriteRuleSet:
        return _RULES

    def formula(self, traits: GraphTraits) -> int:
        """Return 1; a graph without layers has no embeddings."""
        return min(1, traits.layers)

    def refusals(self, model: ir.Model) -> list[Refusal]:
        """Return the norms left that read what was looked up in a table; no other was expected to be fused."""
        looking = {
            node.name
            for node in model.graph
            if node.op_type == self.anchor and any(maker(value, "Gather") is not None for value in node.inputs[:2])
        }
        return [refusal for refusal in super().refusals(model) if refusal.node in looking]


def _normed(op: Any, one: Any, other: Any, gamma: Any, beta: Any) -> Any:
    return op.SkipLayerNormalization(
        one, other, gamma, beta, _domain=DOMAIN, _allow_other_inputs=True, _outputs=["norm"]
    )


def _words_and_places(
    op: Any, words_table: Any, words: Any, places_table: Any, places: Any, gamma: Any, beta: Any
) -> Any:
    return _normed(op, op.Gather(places_table, places, axis=0), op.Gather(words_table, words, axis=0), gamma, beta)


def _with_types(
    op: Any,
    words_table: Any,
    words: Any,
    places_table: Any,
    places: Any,
    types_table: Any,
    types: Any,
    gamma: Any,
    beta: Any,
) -> Any:
    typed = op.Add(op.Gather(words_table, words, axis=0), op.Gather(types_table, types, axis=0))  # rule 1
    return _normed(op, op.Gather(places_table, places, axis=0), typed, gamma, beta)


def _obstacle(
    *,
    norm: ir.Value,
    words_table: ir.Value,
    words: ir.Value,
    places_table: ir.Value,
    places: ir.Value,
    types_table: ir.Value | None = None,
    types: ir.Value | None = None,
    **_: Any,
) -> str | None:
    if norm.dtype in {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}:
        return LOWER_STATISTICS  # rule 3
    tables = [table for table in (words_table, places_table, types_table) if table is not None]
    if norm.dtype != ir.DataType.FLOAT or any(table.dtype != norm.dtype for table in tables):
        return NOT_FLOAT32
    if any(rank(table) != 2 for table in tables):
        return NO_TABLE
    ids = [value.shape for value in (words, places, types) if value is not None]
    if norm.shape is None or not all(same_shape(shape, norm.shape[:2]) for shape in ids):
        return OTHER_IDS
    node = norm.producer()
    assert node is not None
    return BIAS if len(node.inputs) > 4 and node.inputs[4] is not None else None


def _rewrite(
    op: Any,
    *,
    norm: ir.Value,
    words_table: ir.Value,
    words: ir.Value,
    places_table: ir.Value,
    places: ir.Value,
    types_table: ir.Value | None = None,
    types: ir.Value | None = None,
    gamma: ir.Value,
    beta: ir.Value,
) -> ir.Value:
    node = norm.producer()
    assert node is not None
    normed, index = op.EmbedLayerNormalization(
        _int32(op, words),
        None if types is None else _int32(op, types),
        words_table,
        places_table,
        types_table,
        gamma,
        beta,
        None,  # mask
        _int32(op, places),
        epsilon=node.attributes.get_float("epsilon", 1e-5),
        mask_index_type=0,
        _domain=DOMAIN,
        _outputs=2,
    )
    set_type(index, ir.DataType.INT32, None if norm.shape is None else norm.shape[:1])
    result: ir.Value = normed
    return result


def _int32(op: Any, ids: ir.Value) -> ir.Value:
    """Return the ids as the operator takes them (rule 2)."""
    return set_type(op.Cast(ids, to=ir.DataType.INT32, _outputs=[f"{ids.name}.int32"]), ir.DataType.INT32, ids.shape)


_RULES: Final = pattern.RewriteRuleSet(
    [
        rule("words, types and positions", _with_types, _rewrite, _obstacle),
        rule("words and positions", _words_and_places, _rewrite, _obstacle),
    ]
)
