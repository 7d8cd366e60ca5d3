"""input_ids, attention_mask -> text: a graph that tokenizes its input itself, by operators of onnxruntime-extensions.

    text -> StringRegexReplace, one for each rule -> RobertaTokenizer -> cut to the longest text -> the graph as it was

The tokenizer's operator treats plain text as RoBERTa's byte-level BPE does. The rules rewrite the text before it, where
the tokenizer does more or the operator does wrong:

1. A mask becomes one character. Where tokens of several characters are possible, the operator loses the end of a text
   that looks like the beginning of such a token: the `b` of `a <b`.
2. The white space before a mask, or after it, is removed if it belongs to the mask.
3. A space is put before a text, and before the text that follows a mask, if the tokenizer puts one there.

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
"""The inputs that become outputs: they say which token another output belongs to."""

# A noncharacter, which Unicode reserves for use within programs: no text contains it.
_MASK: Final = "\ufdd0"
# White space in Unicode; in RE2, \s is white space in ASCII only.
_SPACE: Final = r"[\t-\r\x{85}\p{Z}]"
_TO_THE_LONGEST: Final = -1
LEFT: Final = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class BytePairs:
    """RoBERTa's byte-level BPE.

    `vocabulary` has the ids by token, those of the special tokens `<s>`, `<pad>` and `</s>` among them. `merges` are
    the pairs in their order, with a space between the two. `mask` is the mask token, or None if there is none, and
    `mask_takes_space_before` and `mask_takes_space_after` say whether the white space around it belongs to it.
    `prefix_space` says whether a space is put before a text. `truncation_side`, "right" or "left", is the side from
    which a text that is too long is cut.
    """

    vocabulary: Mapping[str, int]
    merges: tuple[str, ...]
    mask: str | None
    prefix_space: bool
    mask_takes_space_before: bool = True
    mask_takes_space_after: bool = False
    truncation_side: str = "right"


def text_graph(model: ir.Model, tokenizer: BytePairs, *, longest_text: int) -> ir.Model:
    """Return a copy of `model` whose input is `text`, strings [batch], and whose outputs include TOKENS.

    A text is cut to `longest_text` tokens, its start and its end token among them; others are padded at the end.
    The inputs of `model` are TOKENS and perhaps `token_type_ids`, which become 0, all int64 [batch, sequence]. The copy
    shares the weights.
    """
    result = model.clone()
    graph = result.graph
    taken = {value.name or "": value for value in graph.inputs}
    shape = taken[TOKENS[0]].shape
    assert shape is not None
    text = ir.val(TEXT, ir.DataType.STRING, ir.Shape([shape[0]]))
    steps = _Steps(nodes=[], shape=shape)
    ids, mask = _tokens(steps, _rewritten(steps, text, tokenizer), tokenizer, longest_text)
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
    """New nodes in their order. Values are int64 of the tokens' `shape` unless said otherwise."""

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
        """Add a node and return its first output. It has `others` outputs besides, which need no reader."""
        node = ir.node(kind, inputs, attributes, domain=domain, num_outputs=1 + others)
        node.name = f"{TEXT}.{kind}.{len(self.nodes)}"
        self.nodes.append(node)
        first = node.outputs[0]
        first.dtype, first.shape = dtype, self.shape if shape is None else shape
        for number, value in enumerate(node.outputs):
            value.name = f"{node.name}.{number}"
        return first

    def strings(self, value: str) -> ir.Value:
        """Return a constant of one string."""
        return self.add("Constant", [], {"value_strings": [value]}, dtype=ir.DataType.STRING, shape=ir.Shape([1]))

    def integers(self, *values: int) -> ir.Value:
        """Return a constant of integers with one axis."""
        return self.add("Constant", [], {"value_ints": list(values)}, shape=ir.Shape([len(values)]))


def _rewritten(steps: _Steps, text: ir.Value, tokenizer: BytePairs) -> ir.Value:
    """Return the text rewritten by the rules in the module's docstring."""
    rules = []
    if tokenizer.mask is not None:
        before = f"{_SPACE}*" if tokenizer.mask_takes_space_before else ""
        after = f"{_SPACE}*" if tokenizer.mask_takes_space_after else ""
        rules.append((f"{before}{tokenizer.mask}{after}", _MASK))  # rules 1 and 2
    if tokenizer.prefix_space:
        rules.append((f"(^|{_MASK})([^ {_MASK}])", r"\1 \2"))  # rule 3
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


def _tokens(steps: _Steps, text: ir.Value, tokenizer: BytePairs, longest_text: int) -> tuple[ir.Value, ir.Value]:
    """Return ids and mask of the text, at most `longest_text` tokens each."""
    vocabulary = dict(tokenizer.vocabulary)
    added = {} if tokenizer.mask is None else {"added_token": f"{_MASK}={vocabulary[tokenizer.mask]}"}
    attributes = {
        "vocab": json.dumps(vocabulary, separators=(",", ":")),
        "merges": "\n".join(tokenizer.merges),
        "padding_length": _TO_THE_LONGEST,
        **added,
    }
    # The operator's third output, the offsets, must not be asked for. It has room for one pair for each token, but the
    # operator writes two more for each part of a text between masks, beyond the end of its memory.
    uncut = ir.Shape([steps.shape[0], "tokens"])
    ids = steps.add("RobertaTokenizer", [text], attributes, shape=uncut, domain=DOMAIN, others=1)
    mask = steps.nodes[-1].outputs[1]
    mask.dtype, mask.shape = ir.DataType.INT64, uncut
    if tokenizer.truncation_side == LEFT:
        return _last_tokens(steps, ids, mask, longest_text)
    start, last, end = steps.integers(0), steps.integers(longest_text - 1), steps.integers(longest_text)
    axis = steps.integers(1)
    cut_mask = steps.add("Slice", [mask, start, end, axis])
    # If a text is as long as can be, its last token has to be the end token.
    column = ir.Shape([steps.shape[0], None])
    reached = steps.add("Slice", [mask, last, end, axis], shape=column)
    reached = steps.add("Cast", [reached], {"to": ir.DataType.BOOL}, dtype=ir.DataType.BOOL, shape=column)
    kept = steps.add("Slice", [ids, last, end, axis], shape=column)
    closing = steps.add("Where", [reached, steps.integers(vocabulary["</s>"]), kept], shape=column)
    before = steps.add("Slice", [ids, start, last, axis], shape=column)
    return steps.add("Concat", [before, closing], {"axis": 1}), cut_mask


def _last_tokens(steps: _Steps, ids: ir.Value, mask: ir.Value, longest_text: int) -> tuple[ir.Value, ir.Value]:
    """Return ids and mask of the start token and the last `longest_text` - 1 tokens of each text."""
    axis = steps.integers(1)
    cut = steps.add("Slice", [mask, steps.integers(0), steps.integers(longest_text), axis])
    ones = steps.add("Add", [steps.add("Sub", [cut, cut]), steps.integers(1)])
    places = steps.add("CumSum", [ones, axis], {"exclusive": 1})
    column = ir.Shape([steps.shape[0], 1])
    length = steps.add("ReduceSum", [mask, axis], {"keepdims": 1}, shape=column)
    surplus = steps.add("Sub", [length, steps.integers(longest_text)], shape=column)
    surplus = steps.add("Max", [surplus, steps.integers(0)], shape=column)
    first = steps.add("Equal", [places, steps.integers(0)], dtype=ir.DataType.BOOL)
    sources = steps.add("Where", [first, places, steps.add("Add", [places, surplus])])
    kept_ids, kept_mask = (steps.add("GatherElements", [value, sources], {"axis": 1}) for value in (ids, mask))
    return kept_ids, kept_mask
