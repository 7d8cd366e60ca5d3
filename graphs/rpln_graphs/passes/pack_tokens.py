"""per-token operators on [batch, sequence, size] -> on the real tokens alone, [1, tokens, size]; attention as it was.

All of a network but attention acts on each token by itself, so that padding costs as much as text. Rules:

1. Real are the tokens of the mask, the first of each text, which heads read even where it is padding, and all tokens of
   a text that is nothing but padding, whose attention goes over all of them.
2. Values are packed from the embeddings on: an operator of PER_TOKEN computes packed, and what it takes that is not
   packed, a layer's context, goes through one Gather.
3. Any other reader gets the value back in its place through one Gather. A padded place then holds some real token:
   attention masks it as a key, and nobody reads what it is as a query.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rpln_graphs.rewriting.base import (
    CACHE,
    FIRST_TOKEN,
    HIDDEN_STATES,
    LAST_TOKEN,
    MASKED_TOKENS,
    ExplainingPass,
    GraphTraits,
    Refusal,
)
from rpln_graphs.rewriting.initializers import initializer_from_array

PER_TOKEN: Final = frozenset(
    {"Gather", "LayerNormalization", "SkipLayerNormalization", "MatMul", "Cast"}
    | {"Add", "Sub", "Mul", "Div", "Neg", "Pow", "Sqrt", "Exp", "Max", "Min", "Clip", "Where"}
    | {"Gelu", "BiasGelu", "FastGelu", "Erf", "Tanh", "Relu", "Sigmoid", "Elu", "LeakyRelu", "Mish", "Softplus"}
    | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"}
)
"""Operators that may act on each token by itself; `_Packing.acts_on_tokens` looks at the rest of the node."""
PRODUCTS: Final = frozenset({"MatMul", "DynamicQuantizeLinear", "QuantizeLinear"})
"""What takes a context: the projection behind an attention, or what quantizes for that."""
DOMAINS: Final = frozenset({"", "com.microsoft"})
GRAPHS: Final = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})

MASK: Final = "attention_mask"
TOKENS: Final = "packing.tokens"
PLACES: Final = "packing.places"
"""Axes of real tokens, and of all places of a batch: what has one name must have one size."""
RANK: Final = 3
"""Of values over tokens: texts, sequence, size."""
BOOL: Final = ir.DataType.BOOL
INT64: Final = ir.DataType.INT64
CONSTANTS: Final[dict[str, int | list[int]]] = {"zero": 0, "one": 1, "over_tokens": [1]}

Size = int | str | ir.SymbolicDim


class PackTokens(ExplainingPass):
    """Counts the contexts that are packed again, one behind each attention."""

    unless: ClassVar[Mapping[str, str]] = {
        CACHE: "a step has no padding: all of its tokens are new",
        LAST_TOKEN: "the head reads the last place of each text, which may be padding",
        MASKED_TOKENS: "the head reads mask tokens wherever they stand, which may be in padding",
    }

    def formula(self, traits: GraphTraits) -> int:
        """L, 2L with cross-attention; a head that reads the first token alone needs no other of the last layer."""
        alone = FIRST_TOKEN in traits.features and HIDDEN_STATES not in traits.features
        return (2 if traits.cross_attention else 1) * (traits.layers - alone)

    def rewrite(self, model: ir.Model) -> int:
        mask = next((value for value in model.graph.inputs if value.name == MASK), None)
        texts = None if mask is None else _mask_of_texts(mask)
        packing = None if texts is None else _Packing(model.graph, texts)
        reason = self._obstacle(model, texts, packing)
        self.record(model, [Refusal(node=MASK, reason=reason)] if reason else [])
        if reason or packing is None:
            return 0
        contexts = len(packing.contexts())
        packing.run()
        return contexts

    def _obstacle(self, model: ir.Model, texts: ir.Value | None, packing: "_Packing | None") -> str | None:
        """Why the graph stays as it is."""
        if texts is None or packing is None:
            return f"the graph has no input {MASK} over batch and sequence"
        if any((value.name or "").startswith("past_key_values.") for value in model.graph.inputs):
            return self.unless[CACHE]
        if not all(isinstance(axis, list) for axis in packing.axes):
            return f"the axes of {MASK} have no names, by which values over tokens would be known"
        if (reason := next(filter(None, (_harm(node, texts) for node in model.graph)), None)) is not None:
            return reason
        return None if packing.contexts() else f"no attention's context is known to have the axes of {MASK}"


def _harm(node: ir.Node, texts: ir.Value) -> str | None:
    """Why a graph with `node` is not packed."""
    if any(attribute.type in GRAPHS for attribute in node.attributes.values()):
        return f"{node.name} holds a graph of its own, which may read any value"
    return f"{node.name} reads rows that may be padding" if _picks_rows(node, texts) else None


def _mask_of_texts(mask: ir.Value) -> ir.Value | None:
    """The mask as (texts, sequence): the input itself, or what its only reader makes of (batch, choices, sequence)."""
    if mask.shape is not None and mask.shape.rank() == 2:  # texts and sequence
        return mask
    readers = [use.node for use in mask.uses() if use.node.op_type != "Shape"]
    if len(readers) == 1 and readers[0].op_type == "Reshape":
        return _mask_of_texts(readers[0].outputs[0])
    return None


def _picks_rows(node: ir.Node, texts: ir.Value) -> bool:
    """Whether `node` reads some rows of a value over tokens, other than the first ones."""
    source = node.inputs[0] if node.inputs else None
    if node.op_type not in {"Gather", "GatherND", "GatherElements", "Slice"} or source is None or _rank(source) != RANK:
        return False
    assert source.shape is not None and texts.shape is not None
    if _axes(source)[:2] != _axes(texts):
        return False
    if node.op_type == "Gather":
        constant = _contents(node.inputs[1])
        return _axis(node, 0) not in {2, -1} and (constant is None or bool(constant.any()))
    axes = _contents(node.inputs[3]) if node.op_type == "Slice" and len(node.inputs) > 3 else None
    return axes is None or not set(axes.tolist()) <= {2, -1}


class _Packing:
    """One run over a graph, from its inputs down."""

    def __init__(self, graph: ir.Graph, mask: ir.Value) -> None:
        assert mask.shape is not None
        self.graph = graph
        self.axes = _axes(mask)
        self.packed: set[ir.Value] = set()
        self.gathered: dict[ir.Value, ir.Value] = {}
        self.restored: dict[ir.Value, ir.Value] = {}
        self.mask = mask

    def contexts(self) -> set[ir.Value]:
        """What products of tokens take from other operators: the contexts of the attentions."""
        acting = [node for node in self.graph if self.acts_on_tokens(node)]
        taken = {node.inputs[0] for node in acting if node.op_type in PRODUCTS}
        return {value for value in taken if value is not None and value.producer() not in {None, *acting}}

    def run(self) -> None:
        """Pack what can be packed."""
        self.places, self.inverse = self._indices(self.mask)
        for node in list(self.graph):
            if self.acts_on_tokens(node):
                self._pack(node)
                continue
            for position, value in enumerate(node.inputs):
                if value in self.packed:
                    node.replace_input_with(position, self._unpacked(value, before=node))
        for position, value in enumerate(self.graph.outputs):
            if value in self.packed:
                self._unpack_output(position, value)

    def acts_on_tokens(self, node: ir.Node) -> bool:
        """Whether `node` makes of every token's values this token's values and nothing else (rule 2)."""
        if node.op_type not in PER_TOKEN or node.domain not in DOMAINS or not self._over_tokens(node.outputs[0]):
            return False
        if node.op_type == "Gather":
            table, indices = node.inputs
            return _is_constant(table) and _axes(indices) == self.axes and _axis(node, 0) == 0  # an embedding
        if node.op_type == "LayerNormalization" and _axis(node, -1) not in {-1, 2}:
            return False
        tokens, *others = (value for value in node.inputs if value is not None)
        if node.op_type.startswith("MatMul"):
            weight, *others = others
            return self._over_tokens(tokens) and _is_constant(weight) and _rank(weight) == 2  # a matrix
        return all(self._over_tokens(value) or _rank(value) in {0, 1} for value in (tokens, *others))

    def _over_tokens(self, value: ir.Value) -> bool:
        """Whether `value` is (texts, sequence, size), or was before it was packed."""
        if _rank(value) != RANK:
            return False
        assert value.shape is not None
        return value in self.packed or (_axes(value)[:2] == self.axes and isinstance(value.shape[2], int))

    def _pack(self, node: ir.Node) -> None:
        """Let `node` compute packed."""
        for position, value in enumerate(node.inputs):
            if value is None or value in self.packed:
                continue
            if (node.op_type == "Gather" and position == 1) or self._over_tokens(value):
                node.replace_input_with(position, self._packed(value, before=node))
        for value in node.outputs:
            if self._over_tokens(value):
                assert value.shape is not None
                value.shape = ir.Shape([1, TOKENS, value.shape[2]])
                self.packed.add(value)

    def _packed(self, value: ir.Value, *, before: ir.Node) -> ir.Value:
        """The rows of `value` at real tokens, of (texts, sequence) the numbers; made once for all readers."""
        assert value.shape is not None
        sizes = list(value.shape)[2:]
        if value not in self.gathered:
            rows, shape = self._rows(value, before=before), [1, TOKENS, *sizes]
            self.gathered[value] = self._add(
                "Gather", [rows, self.places], f"{value.name}.packed", shape, before=before
            )
        return self.gathered[value]

    def _unpacked(self, value: ir.Value, *, before: ir.Node | None) -> ir.Value:
        """`value` at its places, (texts, sequence, size) (rule 3); made once for all readers."""
        if value not in self.restored:
            assert value.shape is not None and self.inverse.shape is not None
            rows = self._rows(value, before=before)
            name, shape = f"{value.name}.unpacked", [*self.inverse.shape, value.shape[2]]
            self.restored[value] = self._add("Gather", [rows, self.inverse], name, shape, before=before)
        return self.restored[value]

    def _unpack_output(self, position: int, value: ir.Value) -> None:
        """The graph's output keeps its name and shape."""
        name = value.name or ""
        restored = self._unpacked(value, before=None)
        value.name, restored.name = f"{name}.packed", name
        self.graph.outputs[position] = restored

    def _indices(self, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Where the real tokens stand among all, (1, tokens), and which of them a place shows, (texts, sequence)."""
        assert mask.shape is not None
        maker, shape = mask.producer(), list(mask.shape)
        before = self.graph[0] if maker is None else next(after for after in _following(self.graph, maker))

        def add(operator: str, *inputs: ir.Value, name: str, shape: Sequence[Size], **attributes: int) -> ir.Value:
            dtype = BOOL if operator in {"Cast", "Equal", "Or"} and attributes.get("to") != INT64 else INT64
            return self._add(operator, inputs, f"packing.{name}", shape, before=before, dtype=dtype, **attributes)

        zero, one, over_tokens = (self._constant(name, value) for name, value in CONSTANTS.items())
        marked = add("Cast", mask, name="marked", shape=shape, to=BOOL)
        count = add("ReduceSum", mask, over_tokens, name="count", shape=[shape[0], 1], keepdims=1)
        empty = add("Equal", count, zero, name="empty", shape=[shape[0], 1])
        sizes = add("Shape", mask, name="sizes", shape=[2])
        length = add("Gather", sizes, one, name="length", shape=[], axis=0)
        numbers = add("Range", zero, length, one, name="numbers", shape=[shape[1]])
        first = add("Equal", numbers, zero, name="first", shape=[shape[1]])
        other = add("Or", empty, first, name="other", shape=shape)
        real = add("Or", marked, other, name="real", shape=shape)
        flat = self._rows(real, before=before)
        places = add("NonZero", flat, name="places", shape=[1, TOKENS])
        ones = add("Cast", flat, name="ones", shape=[PLACES], to=INT64)
        counted = add("CumSum", ones, zero, name="counted", shape=[PLACES])
        shown = add("Sub", counted, one, name="shown", shape=[PLACES])
        return places, add("Reshape", shown, sizes, name="inverse", shape=shape)

    def _rows(self, value: ir.Value, *, before: ir.Node | None) -> ir.Value:
        """All places in one axis: (texts, sequence, size) -> (places, size); of packed values all tokens."""
        assert value.shape is not None and value.dtype is not None
        sizes = [size for size in list(value.shape)[2:] if isinstance(size, int)]
        target = self._constant("x".join(map(str, ["shape.-1", *sizes])), [-1, *sizes])
        shape: list[Size] = [TOKENS if value in self.packed else PLACES, *sizes]
        return self._add("Reshape", [value, target], f"{value.name}.flat", shape, before=before, dtype=value.dtype)

    def _constant(self, name: str, value: int | list[int]) -> ir.Value:
        name = f"packing.{name}"
        if name not in self.graph.initializers:
            self.graph.register_initializer(initializer_from_array(name, np.array(value, dtype=np.int64)))
        return self.graph.initializers[name]

    def _add(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        name: str,
        shape: Sequence[Size],
        *,
        before: ir.Node | None,
        dtype: ir.DataType | None = None,
        **attributes: int,
    ) -> ir.Value:
        """The result of a new node; its type is that of the first input if not given."""
        node = ir.node(operator, inputs, attributes, name=name)
        output = node.outputs[0]
        output.name, output.shape, output.type = name, ir.Shape(shape), ir.TensorType(dtype or inputs[0].dtype or INT64)
        if before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(before, node)
        return output


def _following(graph: ir.Graph, node: ir.Node) -> Iterator[ir.Node]:
    nodes = iter(graph)
    for other in nodes:
        if other is node:
            yield from nodes


def _is_constant(value: ir.Value | None) -> bool:
    """Whether `value` is an initializer, or one turned, as embeddings are for a head tied to them, or dequantized."""
    maker = None if value is None else value.producer()
    if maker is not None and maker.op_type in {"Transpose", "DequantizeLinear", "Cast"}:
        return _is_constant(maker.inputs[0])
    return value is not None and value.is_initializer()


def _axes(value: ir.Value | None) -> list[list[str] | int | None]:
    """The size of each axis; of one with a name the factors of that: batch*choices is as long as choices*batch."""
    if value is None or value.shape is None:
        return []
    sizes = (size if isinstance(size, int) else size.value for size in value.shape)
    return [sorted(size.split("*")) if isinstance(size, str) else size for size in sizes]


def _contents(value: ir.Value | None) -> NDArray[Any] | None:
    """Of a constant."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()


def _axis(node: ir.Node, default: int) -> int:
    return node.attributes.get_int("axis", default)
