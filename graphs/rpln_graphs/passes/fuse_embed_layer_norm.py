"""SkipLayerNormalization(words[ids], positions[places]) -> EmbedLayerNormalization(ids, words, positions, places).

It comes after FuseSkipLayerNorm. onnxscript has no rule for it, and ONNX Runtime's own knows positions that count up
from 0 only. RoBERTa's, which skip padding, go to the operator as an input, the row of padding included.

1. Token types are a third table where they are an input; else FoldTokenTypes has put their row into another one.
2. The operator takes ids in int32.
3. In fp32 only: it would compute statistics in fp16, and it knows no bf16.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import onnx_ir as ir
from onnxscript.rewriter import pattern

from rpln_graphs.rewriting.base import INPUTS_EMBEDS, LOWER_STATISTICS, RELATIVE_POSITIONS, GraphTraits, Refusal
from rpln_graphs.rewriting.contrib import DOMAIN, ContribPass, same_sizes, set_type

WORDS, PLACES, TYPES = "words", "places", "types"


class FuseEmbedLayerNorm(ContribPass):
    """Counts the embeddings: one."""

    anchor: ClassVar[str] = "SkipLayerNormalization"
    unless: ClassVar[Mapping[str, str]] = {
        INPUTS_EMBEDS: "words come as vectors, not as ids",
        RELATIVE_POSITIONS: "there is no table of positions",
    }

    def rules(self) -> pattern.RewriteRuleSet:
        return _RULES

    def formula(self, traits: GraphTraits) -> int:
        """One in each network."""
        return 1 if traits.layers else 0

    def refusals(self, model: ir.Model) -> list[Refusal]:
        """Of sums of what was looked up: of others nothing was expected."""
        looking = {node.name for node in model.graph if node.op_type == self.anchor and _looks_up(node)}
        return [refusal for refusal in super().refusals(model) if refusal.node in looking]


def _check(_context: Any, **match: Any) -> pattern.MatchResult:
    result = pattern.MatchResult()
    norm, names = match["norm"], [name for name in (WORDS, PLACES, TYPES) if match.get(name) is not None]
    if norm.dtype in {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}:
        return result.fail(LOWER_STATISTICS)
    ids, tables = [match[name] for name in names], [match[f"{name}_table"] for name in names]
    if norm.dtype != ir.DataType.FLOAT or any(table.dtype != norm.dtype for table in tables):
        return result.fail("its tables are not in fp32")
    if any(table.shape is None or len(table.shape) != 2 for table in tables):
        return result.fail("its tables have not two axes")
    if norm.shape is None or not all(same_sizes(value.shape, ir.Shape(norm.shape[:2])) for value in ids):
        return result.fail("its ids are not known to be of the same texts and tokens")
    if len(norm.producer().inputs) > 4 and norm.producer().inputs[4] is not None:
        return result.fail("a bias is added to what is looked up: FoldTokenTypes comes before")
    return result


def _rewrite(op: Any, **match: Any) -> ir.Value:
    norm, types = match["norm"], match.get(TYPES)
    normed, index = op.EmbedLayerNormalization(
        _int32(op, match[WORDS]),
        None if types is None else _int32(op, types),
        match["words_table"],
        match["places_table"],
        match.get("types_table"),
        match["gamma"],
        match["beta"],
        None,  # mask
        _int32(op, match[PLACES]),
        epsilon=norm.producer().attributes.get_float("epsilon", 1e-5),
        mask_index_type=0,
        _domain=DOMAIN,
        _outputs=2,
    )
    set_type(index, ir.DataType.INT32, norm.shape[:1])
    result: ir.Value = normed
    return result


def _int32(op: Any, ids: ir.Value) -> ir.Value:
    assert ids.shape is not None
    return set_type(op.Cast(ids, to=ir.DataType.INT32, _outputs=[f"{ids.name}.int32"]), ir.DataType.INT32, ids.shape)


def _looks_up(node: ir.Node) -> bool:
    producers = [None if value is None else value.producer() for value in node.inputs[:2]]
    return any(producer is not None and producer.op_type == "Gather" for producer in producers)


def _normed(op: Any, one: Any, other: Any, gamma: Any, beta: Any) -> Any:
    return op.SkipLayerNormalization(
        one, other, gamma, beta, _domain=DOMAIN, _allow_other_inputs=True, _outputs=["norm"]
    )


def _words_and_places(  # noqa: PLR0917 - onnxscript binds what it finds to these names
    op: Any, words_table: Any, words: Any, places_table: Any, places: Any, gamma: Any, beta: Any
) -> Any:
    return _normed(op, op.Gather(places_table, places, axis=0), op.Gather(words_table, words, axis=0), gamma, beta)


def _with_types(  # noqa: PLR0917 - onnxscript binds what it finds to these names
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
    typed = op.Add(op.Gather(words_table, words, axis=0), op.Gather(types_table, types, axis=0))
    return _normed(op, op.Gather(places_table, places, axis=0), typed, gamma, beta)


_RULES: Final = pattern.RewriteRuleSet(
    [
        pattern.RewriteRule(_with_types, _rewrite, _check, name="words, types and positions"),
        pattern.RewriteRule(_words_and_places, _rewrite, _check, name="words and positions"),
    ]
)
