"""input_ids, attention_mask -> text: a graph that makes its tokens itself, by operators of onnxruntime-extensions.

    text -> StringRegexReplace, one for each rule -> RobertaTokenizer -> cut to the usable length -> the graph as it was

The tokenizer's operator does to plain text what RoBERTa's byte-level BPE does. What goes beyond that, and where it goes
wrong, is put right before it, by rules that rewrite the text:

1. A text gets a space before it, and so does what follows a mask, where the tokenizer puts one.
2. A mask takes the white space before it.
3. A mask is handed on as one character. Looking for tokens of several characters, the operator loses the end of a text
   that ends like the beginning of such a token: of `a <b` the `b`.

Source: onnxruntime-extensions 0.15, operators/tokenizer/bpe_kernels.cc and operators/text/string_regex_replace.cc.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx_ir as ir

DOMAIN: Final = "ai.onnx.contrib"
TEXT: Final = "text"
TOKENS: Final = ("input_ids", "attention_mask")
"""What the graph took, and now gives beside its outputs: they say which token an output belongs to."""

# A noncharacter, which Unicode keeps for use within programs: no text has it.
_MASK: Final = "\ufdd0"
# What Unicode calls white space; \s is ASCII's, in RE2.
_SPACE: Final = r"[\t-\r\x{85}\p{Z}]"
_TO_THE_LONGEST: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class BytePairs:
    """RoBERTa's byte-level BPE, its special tokens `<s>`, `<pad>` and `</s>` among the `vocabulary` of ids by token.

    `merges` are the pairs in their order, with a space between the two; `mask` is the mask token, None where there is
    none; `prefix_space` says whether a text gets a space before it.
    """

    vocabulary: Mapping[str, int]
    merges: tuple[str, ...]
    mask: str | None
    prefix_space: bool


def text_graph(model: ir.Model, tokenizer: BytePairs, *, usable_length: int) -> ir.Model:
    """A copy of `model` that takes `text`, strings [batch], and gives TOKENS beside its outputs; weights are shared.

    A text is cut to `usable_length` tokens, its end token last; shorter ones are padded behind their ends. `model`
    takes the TOKENS and perhaps `token_type_ids`, which become 0, all int64 [batch, sequence].
    """
    result = model.clone()
    graph = result.graph
    taken = {value.name or "": value for value in graph.inputs}
    shape = taken[TOKENS[0]].shape
    assert shape is not None
    text = ir.val(TEXT, ir.DataType.STRING, ir.Shape([shape[0]]))
    steps = _Steps(nodes=[], shape=shape)
    ids, mask = _tokens(steps, _rewritten(steps, text, tokenizer), tokenizer, usable_length)
    made = dict(zip(TOKENS, (ids, mask), strict=True))
    if "token_type_ids" in taken:
        made["token_type_ids"] = steps.add("Sub", [ids, ids])
    graph.inputs[:] = [text]
    for name, value in made.items():
        taken[name].name, value.name = None, name
        ir.convenience.replace_all_uses_with(taken[name], value)
    graph.insert_before(graph[0], steps.nodes)
    graph.outputs.extend(made[name] for name in TOKENS)
    result.opset_imports[DOMAIN] = 1
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """Nodes in their order. Values are int64 of the tokens' `shape` unless said otherwise."""

    nodes: list[ir.Node]
    shape: ir.Shape

    def add(
        self,
        kind: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, Any] | None = None,
        *,
        dtype: ir.DataType = ir.DataType.INT64,
        shape: ir.Shape | None = None,
        domain: str = "",
        others: int = 0,
    ) -> ir.Value:
        """The first value of a new node, which has `others` that nothing reads."""
        node = ir.node(kind, inputs, attributes, domain=domain, num_outputs=1 + others)
        node.name = f"{TEXT}.{kind}.{len(self.nodes)}"
        self.nodes.append(node)
        first = node.outputs[0]
        first.dtype, first.shape = dtype, self.shape if shape is None else shape
        for number, value in enumerate(node.outputs):
            value.name = f"{node.name}.{number}"
        return first

    def strings(self, value: str) -> ir.Value:
        """A constant of one string."""
        return self.add("Constant", [], {"value_strings": [value]}, dtype=ir.DataType.STRING, shape=ir.Shape([1]))

    def integers(self, *values: int) -> ir.Value:
        """A constant of integers, in one dimension."""
        return self.add("Constant", [], {"value_ints": list(values)}, shape=ir.Shape([len(values)]))


def _rewritten(steps: _Steps, text: ir.Value, tokenizer: BytePairs) -> ir.Value:
    """The text after the rules of the tokenizer, which are numbered above."""
    rules = [(r"^([^ ])", r" \1")] if tokenizer.prefix_space else []  # 1
    if tokenizer.mask is not None:
        rules.append((f"{_SPACE}*{tokenizer.mask}", _MASK))  # 2, 3
    if tokenizer.mask is not None and tokenizer.prefix_space:
        rules.append((f"({_MASK})([^ {_MASK}])", r"\1 \2"))  # 1
    for pattern, replacement in rules:
        text = steps.add(
            "StringRegexReplace",
            [text, steps.strings(pattern), steps.strings(replacement)],
            {"global_replace": 1},
            dtype=ir.DataType.STRING,
            shape=text.shape,
            domain=DOMAIN,
        )
    return text


def _tokens(steps: _Steps, text: ir.Value, tokenizer: BytePairs, usable_length: int) -> tuple[ir.Value, ir.Value]:
    """Ids and mask, of `usable_length` tokens at most."""
    vocabulary = dict(tokenizer.vocabulary)
    added = {} if tokenizer.mask is None else {"added_token": f"{_MASK}={vocabulary[tokenizer.mask]}"}
    attributes = {
        "vocab": json.dumps(vocabulary, separators=(",", ":")),
        "merges": "\n".join(tokenizer.merges),
        "padding_length": _TO_THE_LONGEST,
        **added,
    }
    # Its third output, the offsets, is of no use: rows that are padded have those of other tokens.
    uncut = ir.Shape([steps.shape[0], "tokens"])
    ids = steps.add("RobertaTokenizer", [text], attributes, shape=uncut, domain=DOMAIN, others=2)
    mask = steps.nodes[-1].outputs[1]
    mask.dtype, mask.shape = ir.DataType.INT64, uncut
    start, last, end = steps.integers(0), steps.integers(usable_length - 1), steps.integers(usable_length)
    axis = steps.integers(1)
    cut_mask = steps.add("Slice", [mask, start, end, axis])
    # The token at the last place there is, if the text reaches it, has to be the end token.
    column = ir.Shape([steps.shape[0], None])
    reached = steps.add("Slice", [mask, last, end, axis], shape=column)
    reached = steps.add("Cast", [reached], {"to": ir.DataType.BOOL}, dtype=ir.DataType.BOOL, shape=column)
    kept = steps.add("Slice", [ids, last, end, axis], shape=column)
    closing = steps.add("Where", [reached, steps.integers(vocabulary["</s>"]), kept], shape=column)
    before = steps.add("Slice", [ids, start, last, axis], shape=column)
    return steps.add("Concat", [before, closing], {"axis": 1}), cut_mask
