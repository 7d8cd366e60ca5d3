"""per-token operators on [texts, sequence, size] -> on the real tokens alone, [1, tokens, size]; attention as it was.

All of a network but attention computes each token by itself, so that padding costs as much as text. Rules:

1. Real tokens are those that the mask marks, the first token of each text, which heads read even where it is padding,
   and all tokens of a text that is nothing but padding, because its attention goes over all of them.
2. Values are packed from the embeddings on: a node that `computes_tokens` computes packed tokens. What it reads that is
   not packed, such as an attention's result, goes through one Gather.
3. Any other reader gets the value back in its place through one Gather. A padded place then holds some real token:
   attention masks it as a key, and nobody reads its result as a query.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile
from typing import Any, ClassVar, Final

import onnx_ir as ir

from rpln_graphs.rewriting.base import ExplainingPass, Refusal
from rpln_graphs.rewriting.initializers import shared_initializer
from rpln_graphs.rewriting.nodes import typed_node
from rpln_graphs.rewriting.per_token import RANK, TOKENS, computes_tokens, has_tokens, is_packed
from rpln_graphs.rewriting.traits import CACHE, FIRST_TOKEN, HIDDEN_STATES, LAST_TOKEN, MASKED_TOKENS, GraphTraits
from rpln_graphs.rewriting.values import Size, axis_of, contents, rank, same_shape

MASK: Final = "attention_mask"
PLACES: Final = "packing.places"
"""The name of the axis of all places of a batch, texts * sequence."""

READING_CONTEXTS: Final = frozenset({"MatMul", "DynamicQuantizeLinear", "QuantizeLinear"})
"""The operators that read an attention's result: the projection behind it, or what quantizes for that."""
SELECTING: Final = ("Gather", "GatherND", "GatherElements", "Slice")
GRAPHS: Final = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
BOOL: Final = ir.DataType.BOOL
INT64: Final = ir.DataType.INT64

NO_MASK: Final = f"the graph has no input {MASK} over texts and sequence"
NO_NAMES: Final = f"the axes of {MASK} have no names by which values of tokens could be recognized"
NO_CONTEXT: Final = f"no attention's result is known to have the axes of {MASK}"
INNER_GRAPH: Final = "{node} holds a graph of its own, which may read any value"
READS_PADDING: Final = "{node} reads rows that may be padding"

_Shape = Sequence[Size | str]


class PackTokens(ExplainingPass):
    """A pass that leaves padding out of what is computed. It counts the attentions whose results it packed."""

    unless: ClassVar[Mapping[str, str]] = {
        CACHE: "a step of a decoder has no padding: all of its tokens are new",
        LAST_TOKEN: "the head reads the last place of each text, which may be padding",
        MASKED_TOKENS: "the head reads mask tokens wherever they stand, which may be in padding",
    }

    def formula(self, traits: GraphTraits) -> int:
        """Return one for each layer, two with cross-attention; a layer less if the head reads only the first token."""
        alone = FIRST_TOKEN in traits.features and HIDDEN_STATES not in traits.features
        return replace(traits, layers=traits.layers - alone).attentions

    def rewrite(self, model: ir.Model) -> int:
        mask = next((value for value in model.graph.inputs if value.name == MASK), None)
        texts = None if mask is None else _mask_of_texts(mask)
        packed = [] if texts is None or texts.shape is None else _packed_contexts(model.graph, texts.shape)
        reason = self._obstacle(model.graph, texts, packed)
        self.record(model, [Refusal(node=MASK, reason=reason)] if reason else [])
        if reason or texts is None:
            return 0
        _Packing(model.graph, texts).run()
        return len(packed)

    def _obstacle(self, graph: ir.Graph, texts: ir.Value | None, contexts: Collection[ir.Value]) -> str | None:
        """Return why the graph stays as it is, or None."""
        if texts is None or texts.shape is None:
            return NO_MASK
        if any((value.name or "").startswith("past_key_values.") for value in graph.inputs):
            return self.unless[CACHE]
        if any(isinstance(size, int) or size.value is None for size in texts.shape):
            return NO_NAMES
        harm = next(filter(None, (_harm(node, texts.shape) for node in graph)), None)
        return harm or (None if contexts else NO_CONTEXT)


def _mask_of_texts(mask: ir.Value) -> ir.Value | None:
    """Return the mask as [texts, sequence]: the input itself, or the Reshape that reads [batch, choices, sequence]."""
    if rank(mask) == 2:
        return mask
    readers = [use.node for use in mask.uses() if use.node.op_type != "Shape"]
    return _mask_of_texts(readers[0].outputs[0]) if [node.op_type for node in readers] == ["Reshape"] else None


def _packed_contexts(graph: ir.Graph, texts: ir.Shape) -> set[ir.Value]:
    """Return the values that products of tokens read from other nodes: the results of the attentions."""
    nodes = [node for node in graph if computes_tokens(node, texts)]
    read = {node.inputs[0] for node in nodes if node.op_type in READING_CONTEXTS and not is_packed(node.inputs[0])}
    return {value for value in read if value is not None and value.producer() not in {None, *nodes}}


def _harm(node: ir.Node, texts: ir.Shape) -> str | None:
    """Return why a graph with `node` cannot be packed, or None if the node does no harm."""
    if any(attribute.type in GRAPHS for attribute in node.attributes.values()):
        return INNER_GRAPH.format(node=node.name)
    return READS_PADDING.format(node=node.name) if _selects_rows(node, texts) else None


def _selects_rows(node: ir.Node, texts: ir.Shape) -> bool:
    """Return whether `node` selects rows of [texts, sequence, size] other than the first of each text."""
    source = node.inputs[0] if node.inputs else None
    if node.op_type not in SELECTING or source is None or source.shape is None or len(source.shape) != RANK:
        return False
    if not same_shape(source.shape[:2], texts):
        return False
    if node.op_type == "Gather":
        rows = contents(node.inputs[1])
        return axis_of(node, default=0, rank=RANK) != RANK - 1 and (rows is None or bool(rows.any()))
    axes = contents(node.inputs[3]) if node.op_type == "Slice" and len(node.inputs) > 3 else None
    return axes is None or not set(axes.tolist()) <= {RANK - 1, -1}


class _Packing:
    """One run over a graph, from its inputs down. `mask` is [texts, sequence]."""

    def __init__(self, graph: ir.Graph, mask: ir.Value) -> None:
        assert mask.shape is not None
        self.graph, self.texts = graph, mask.shape
        self.packed: dict[ir.Value, ir.Value] = {}
        self.unpacked: dict[ir.Value, ir.Value] = {}
        self.places, self.inverse = self._indices(mask)

    def run(self) -> None:
        """Let every node that can compute packed tokens do so, and give the others their values unpacked."""
        for node in list(self.graph):
            if computes_tokens(node, self.texts):
                self._pack(node)
                continue
            for position, value in enumerate(node.inputs):
                if value is not None and is_packed(value):
                    node.replace_input_with(position, self._unpack(value, before=node))
        for position, value in enumerate(self.graph.outputs):
            if is_packed(value):
                name, restored = value.name, self._unpack(value, before=None)
                value.name, restored.name = f"{name}.packed", name
                self.graph.outputs[position] = restored

    def _pack(self, node: ir.Node) -> None:
        """Let `node` compute packed tokens (rule 2)."""
        for position, value in enumerate(node.inputs):
            if value is None or is_packed(value):
                continue
            if (node.op_type == "Gather" and position == 1) or has_tokens(value, self.texts):
                node.replace_input_with(position, self._packed(value, before=node))
        for value in node.outputs:
            if value.shape is not None and has_tokens(value, self.texts):
                value.shape = ir.Shape([1, TOKENS, value.shape[2]])

    def _packed(self, value: ir.Value, *, before: ir.Node) -> ir.Value:
        """Return `value` at real tokens, of [texts, sequence] as [1, tokens]; made once for all readers."""
        if value not in self.packed:
            assert value.shape is not None
            inputs, shape = [self._rows(value, before=before), self.places], [1, TOKENS, *value.shape[2:]]
            self.packed[value] = self._add("Gather", inputs, name=f"{value.name}.packed", shape=shape, before=before)
        return self.packed[value]

    def _unpack(self, value: ir.Value, *, before: ir.Node | None) -> ir.Value:
        """Return the packed `value` at its places, [texts, sequence, size] (rule 3); made once for all readers."""
        if value not in self.unpacked:
            assert value.shape is not None
            inputs, shape = [self._rows(value, before=before), self.inverse], [*self.texts, value.shape[2]]
            name = f"{value.name}.unpacked"
            self.unpacked[value] = self._add("Gather", inputs, name=name, shape=shape, before=before)
        return self.unpacked[value]

    def _rows(self, value: ir.Value, *, before: ir.Node | None) -> ir.Value:
        """Return [texts, sequence, size] as [places, size], and packed tokens as [tokens, size]."""
        assert value.shape is not None
        sizes = [size for size in value.shape[2:] if isinstance(size, int)]
        target = self._constant("x".join(map(str, ["shape.-1", *sizes])), [-1, *sizes])
        shape = [TOKENS if is_packed(value) else PLACES, *sizes]
        return self._add("Reshape", [value, target], name=f"{value.name}.flat", shape=shape, before=before)

    def _indices(self, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the places of the real tokens, [1, tokens], and the token shown at each place, [texts, sequence].

        The real tokens are those of rule 1.
        """
        before = next(iter(self.graph))
        if (maker := mask.producer()) is not None:
            before = list(dropwhile(lambda node: node is not maker, self.graph))[1]

        def add(operator: str, *inputs: ir.Value, name: str, shape: _Shape, **attributes: int) -> ir.Value:
            dtype = BOOL if operator in {"Cast", "Equal", "Or"} and attributes.get("to") != INT64 else INT64
            name = f"packing.{name}"
            return self._add(operator, inputs, attributes, name=name, dtype=dtype, shape=shape, before=before)

        texts, sequence = self.texts
        zero, one = self._constant("zero", 0), self._constant("one", 1)
        over_tokens = self._constant("over_tokens", [1])
        marked = add("Cast", mask, name="marked", shape=[texts, sequence], to=BOOL)
        count = add("ReduceSum", mask, over_tokens, name="count", shape=[texts, 1], keepdims=1)
        empty = add("Equal", count, zero, name="empty", shape=[texts, 1])
        sizes = add("Shape", mask, name="sizes", shape=[2])
        length = add("Gather", sizes, one, name="length", shape=[], axis=0)
        numbers = add("Range", zero, length, one, name="numbers", shape=[sequence])
        first = add("Equal", numbers, zero, name="first", shape=[sequence])
        other = add("Or", empty, first, name="other", shape=[texts, sequence])
        real = add("Or", marked, other, name="real", shape=[texts, sequence])
        flat = self._rows(real, before=before)
        places = add("NonZero", flat, name="places", shape=[1, TOKENS])
        ones = add("Cast", flat, name="ones", shape=[PLACES], to=INT64)
        counted = add("CumSum", ones, zero, name="counted", shape=[PLACES])
        shown = add("Sub", counted, one, name="shown", shape=[PLACES])
        return places, add("Reshape", shown, sizes, name="inverse", shape=[texts, sequence])

    def _constant(self, name: str, value: int | list[int]) -> ir.Value:
        """Return an initializer that holds integers, shared by all nodes of this pass."""
        return shared_initializer(self.graph, f"packing.{name}", value)

    def _add(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str,
        shape: _Shape,
        before: ir.Node | None,
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """Return the result of a new node before `before`, or at the end; by default of the type of its first input."""
        node = typed_node(operator, inputs, attributes, name=name, dtype=dtype or inputs[0].dtype, shape=shape)
        if before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(before, node)
        return node.outputs[0]
