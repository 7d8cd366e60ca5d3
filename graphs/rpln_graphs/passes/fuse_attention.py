"""Softmax(Q K^T s + mask) V, head by head -> Attention(Q, K, V, mask), ONNX's own operator since opset 23.

Rules:
1. Where queries, keys and values come straight from projections and only go into this attention, the operator takes
   them as those left them, [batch, tokens, hidden], and makes the heads itself. Where heads are there already, of a
   cache or of an encoder's output, it takes [batch, heads, tokens, head size]. Its own past and present are not used:
   TensorRT knows the operator with one output only, so a Concat puts the past before the new keys, as it did.
2. A scale becomes the operator's; without one, since it is in the weights, that is 1.
3. The mask is still added. Its lowest values are raised above the least number of fp32, which ONNX Runtime takes for
   "no key at all" and answers with zeros: like this a row that is all padding attends to all keys alike, as it did. In
   fp16 they are raised to what a score can be added to; such a row then attends as if it had no mask.
4. ONNX Runtime wants the mask of each query: one that is the same for all is expanded, once for all layers. A mask of
   fewer than four axes gets the first ones.
5. Scores that LowerPrecision left in fp32 are IN_FLOAT32: the operator would compute them in fp16.

The graph is raised to opset 23 where there is anything to fuse.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import version_converter

from rpln_graphs.errors import PassError
from rpln_graphs.rewriting.base import (
    ATTENTIONS,
    CROSS_ATTENTIONS,
    HEAD_MASK,
    IN_FLOAT32,
    RELATIVE_POSITIONS,
    GraphTraits,
)
from rpln_graphs.rewriting.folding import FoldingPass
from rpln_graphs.rewriting.initializers import initializer_from_array
from rpln_graphs.rewriting.projections import is_constant, other_operand, sole_reader

OPSET: Final = 23
FLOAT: Final = ir.DataType.FLOAT
LOWEST: Final = {FLOAT: -1e30, ir.DataType.BFLOAT16: -1e30, ir.DataType.FLOAT16: -3e4}
"""What hides a key: below any score, and no score added to it is infinite."""

OF_SELF: Final = frozenset({RELATIVE_POSITIONS, ATTENTIONS, HEAD_MASK})
OF_CROSS: Final = frozenset({CROSS_ATTENTIONS, HEAD_MASK})
"""Exceptions, by the kind of attention that they are of."""

HEADS_FIRST: Final = (0, 2, 1, 3)
TURNED: Final = (0, 1, 3, 2)
HEADS_FIRST_TURNED: Final = (0, 2, 3, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attention:
    """What was found around a Softmax: `turned` is the Transpose of the keys, `context` the product with the values.

    Shapes are [B, H, T, K] of the queries, [B, H, S, K] of the values, and of the mask what broadcasts to [B, H, T, S]:
    batch, heads, queries, keys, head size.
    """

    query: ir.Value
    turned: ir.Node
    value: ir.Value
    mask: ir.Value | None
    scale: float
    context: ir.Node

    @property
    def tokens(self) -> int | ir.SymbolicDim:
        """T."""
        assert self.query.shape is not None
        return self.query.shape[2]


class FuseAttention(FoldingPass):
    """Counts the attentions."""

    unless: ClassVar[Mapping[str, str]] = {
        RELATIVE_POSITIONS: "the operator adds no scores that depend on distance and query",
        ATTENTIONS: "the operator's probabilities are no output that every runtime gives",
        CROSS_ATTENTIONS: "the operator's probabilities are no output that every runtime gives",
        HEAD_MASK: "the operator has no mask of heads",
    }

    def formula(self, traits: GraphTraits) -> int:
        """L attentions, 2L with cross-attention."""
        return (2 if traits.cross_attention else 1) * traits.layers

    def expected(self, traits: GraphTraits) -> int:
        """The formula's count, less what is an exception: most features are of one kind of attention only."""
        ordinary = (traits.features.isdisjoint(OF_SELF), traits.features.isdisjoint(OF_CROSS))
        counted = ordinary if traits.cross_attention else ordinary[:1]
        return sum(counted) * traits.layers

    def candidates(self, model: ir.Model) -> Iterable[ir.Node]:
        """Every Softmax."""
        return (node for node in model.graph if node.op_type == "Softmax")

    def rewrite(self, model: ir.Model) -> int:
        """Raise the opset if there is anything to fuse, fuse it, and share what masks are made into."""
        found = (_attention_around(node) for node in self.candidates(model))
        if any(isinstance(attention, _Attention) for attention in found):
            _raise_opset(model)
        count = super().rewrite(model)
        if count:
            for tidy in (common.CommonSubexpressionEliminationPass(), common.RemoveUnusedNodesPass()):
                tidy(model)
        return count

    def fold(self, node: ir.Node) -> str | None:
        """Put the operator in the place of what is around a Softmax."""
        attention = _attention_around(node)
        if isinstance(attention, str):
            return attention
        _fuse(attention)
        return None


# -- finding it ------------------------------------------------------------------------------------------------------


def _attention_around(softmax: ir.Node) -> _Attention | str:
    """The attention that `softmax` is part of, or why there is none that the operator computes."""
    found = _scores_of(softmax)
    if isinstance(found, str):
        return found
    scores, mask, scale = found
    context = _context_of(softmax.outputs[0])
    if context is None:
        return "its probabilities are given out, or read by more than a product with values"
    query, keys, value = scores.inputs[0], scores.inputs[1], context.inputs[1]
    assert query is not None
    assert keys is not None
    assert value is not None
    if any(_is_widened(operand) for operand in (query, keys, value)):
        return IN_FLOAT32
    turned = keys.producer()
    if turned is None or turned.op_type != "Transpose" or _permutation(turned) not in {TURNED, HEADS_FIRST_TURNED}:
        return "its keys are not turned by a Transpose of four axes"
    if _rank(query) != 4 or (mask is not None and _rank(mask) not in range(1, 5)):
        return "its queries are not known to be of four axes and a float type, or its mask of as many at most"
    return _Attention(query=query, turned=turned, value=value, mask=mask, scale=scale, context=context)


def _scores_of(softmax: ir.Node) -> tuple[ir.Node, ir.Value | None, float] | str:
    """The product that `softmax` is of, the mask added to it, and the scale that it is multiplied by."""
    if softmax.attributes.get_int("axis", -1) not in {-1, 3}:
        return "it is not over the last axis"
    masked = softmax.inputs[0]
    assert masked is not None
    add = masked.producer()
    if add is None or add.op_type != "Add":
        branches: list[tuple[ir.Value, ir.Value | None]] = [(masked, None)]
    elif sole_reader(masked) is None:
        return "its scores have other readers"
    else:
        first, second = add.inputs
        assert first is not None
        assert second is not None
        branches = [(first, second), (second, first)]
    for scores, mask in branches:
        found = _product_of(scores)
        if found is not None:
            return found[0], mask, found[1]
    return "its scores are more than a product with a scale and a mask, or have other readers"


def _product_of(scores: ir.Value) -> tuple[ir.Node, float] | None:
    """The product that `scores` are, and its scale; None where there is more to them, or others read them."""
    scale = 1.0
    node = _sole_producer(scores)
    if node is not None and node.op_type == "Cast":
        node = _sole_producer(node.inputs[0])
    if node is not None and node.op_type == "Mul":
        factor = _factor_of(node)
        if factor is None:
            return None
        scale = factor[1]
        node = _sole_producer(other_operand(node, factor[0]))
    return (node, scale) if node is not None and node.op_type == "MatMul" and scale > 0 else None


def _factor_of(node: ir.Node) -> tuple[ir.Value, float] | None:
    """The operand of `node` that is a constant number, or a Cast of one, and that number."""
    for operand in node.inputs:
        producer = None if operand is None else operand.producer()
        constant = producer.inputs[0] if producer is not None and producer.op_type == "Cast" else operand
        if operand is not None and constant is not None and is_constant(constant) and constant.shape == ir.Shape(()):
            assert constant.const_value is not None
            return operand, float(constant.const_value.numpy())
    return None


def _sole_producer(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None and sole_reader(value) is not None else None


def _context_of(probabilities: ir.Value) -> ir.Node | None:
    """The product of `probabilities`, or of a Cast of them, with values, if nobody else reads them."""
    node = sole_reader(probabilities)
    if node is not None and node.op_type == "Cast":
        probabilities = node.outputs[0]
        node = sole_reader(probabilities)
    return node if node is not None and node.op_type == "MatMul" and node.inputs[0] is probabilities else None


def _rank(value: ir.Value) -> int | None:
    """Of a value of a float type that the operator is fused for; None where that, or the rank, is not known."""
    return len(value.shape) if value.dtype in LOWEST and value.shape is not None else None


def _is_widened(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Cast" and value.dtype == FLOAT


def _permutation(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("perm", ()))


# -- fusing it -------------------------------------------------------------------------------------------------------


def _fuse(attention: _Attention) -> None:
    graph, replaced = attention.context.graph, attention.context.outputs[0]
    assert isinstance(graph, ir.Graph)
    attributes: dict[str, int | float] = {"scale": attention.scale}
    nodes, operands = [], _whole_operands(attention)
    if operands is not None:
        last = _chain_behind(attention.context)[-1]
        replaced = last.outputs[0]
        assert attention.query.shape is not None
        heads = attention.query.shape[1]
        assert isinstance(heads, int)
        attributes |= {"q_num_heads": heads, "kv_num_heads": heads}
    else:
        key_BHSK, turn = _keys_as_heads(attention.turned)
        nodes += turn
        operands = [attention.query, key_BHSK, attention.value]
    if attention.mask is not None:
        made = list(_mask_nodes(graph, attention))
        nodes += made
        operands.append(made[-1].outputs[0])
    node = ir.node("Attention", operands, attributes, name=replaced.name)
    output = node.outputs[0]
    output.name, output.type, output.shape = replaced.name, replaced.type, replaced.shape
    place = replaced.producer()
    assert place is not None
    graph.insert_before(place, [*nodes, node])
    ir.convenience.replace_all_uses_with(replaced, output, replace_graph_outputs=True)
    _remove(graph, place)


def _whole_operands(attention: _Attention) -> list[ir.Value] | None:
    """What projections left: queries, keys and values before their heads were set apart (rule 1); None with a cache."""
    heads = [
        _merged_heads(attention.query, HEADS_FIRST),
        _merged_heads(attention.turned.outputs[0], HEADS_FIRST_TURNED),
        _merged_heads(attention.value, HEADS_FIRST),
    ]
    shape = attention.query.shape
    whole = [value for value in heads if value is not None]
    if len(whole) < len(heads) or shape is None or not isinstance(shape[1], int):
        return None
    return whole if len(_chain_behind(attention.context)) == 2 else None


def _merged_heads(value: ir.Value, permutation: tuple[int, ...]) -> ir.Value | None:
    """[batch, tokens, hidden] of which `value` is the heads, if nobody else reads it."""
    transpose = _sole_producer(value)
    if transpose is None or transpose.op_type != "Transpose" or _permutation(transpose) != permutation:
        return None
    reshape = _sole_producer(transpose.inputs[0])
    if reshape is None or reshape.op_type != "Reshape":
        return None
    whole = reshape.inputs[0]
    return whole if whole is not None and whole.shape is not None and len(whole.shape) == 3 else None


def _chain_behind(context: ir.Node) -> list[ir.Node]:
    """The Transpose and the Reshape that lay the contexts of heads side by side; fewer where there is another."""
    transpose = sole_reader(context.outputs[0])
    if transpose is None or transpose.op_type != "Transpose" or _permutation(transpose) != HEADS_FIRST:
        return []
    reshape = sole_reader(transpose.outputs[0])
    if reshape is None or reshape.op_type != "Reshape":
        return [transpose]
    shape = reshape.outputs[0].shape
    return [transpose, reshape] if shape is not None and len(shape) == 3 else [transpose]


def _keys_as_heads(turned: ir.Node) -> tuple[ir.Value, list[ir.Node]]:
    """Keys [B, H, S, K] that were not turned, and the node that makes them, if one must."""
    source = turned.inputs[0]
    assert source is not None
    if _permutation(turned) == TURNED:
        return source, []
    node = ir.node("Transpose", [source], {"perm": HEADS_FIRST}, name=turned.name)
    output, keys_BHKS = node.outputs[0], turned.outputs[0]
    output.name, output.type = f"{keys_BHKS.name}.heads", keys_BHKS.type
    if keys_BHKS.shape is not None:
        output.shape = ir.Shape(keys_BHKS.shape[axis] for axis in TURNED)
    return output, [node]


def _mask_nodes(graph: ir.Graph, attention: _Attention) -> Iterator[ir.Node]:
    """What makes of a mask one that the operator takes (rules 3 and 4), in order."""
    mask, dtype = attention.mask, attention.query.dtype
    assert mask is not None
    assert mask.shape is not None
    assert mask.dtype is not None
    assert dtype is not None
    lowest = _constant(graph, f"{mask.name}.lowest", np.array(LOWEST[dtype], dtype=mask.dtype.numpy()))
    node = _node("Max", [mask, lowest], f"{mask.name}.raised", mask.shape, mask.dtype)
    yield node
    if mask.dtype != dtype:
        node = _node("Cast", [node.outputs[0]], f"{mask.name}.{dtype.name.lower()}", mask.shape, dtype)
        node.attributes["to"] = ir.AttrInt64("to", dtype)
        yield node
    missing = 4 - len(mask.shape)
    sizes = [*(1,) * missing, *mask.shape]
    if missing:
        axes = _constant(graph, f"{mask.name}.axes", np.arange(missing, dtype=np.int64))
        node = _node("Unsqueeze", [node.outputs[0], axes], f"{mask.name}.four_axes", sizes, dtype)
        yield node
    if sizes[2] == 1 and attention.tokens != 1:
        counted = list(_size_nodes(graph, attention, name=f"{mask.name}.sizes"))
        yield from counted
        sizes[2] = attention.tokens
        yield _node("Expand", [node.outputs[0], counted[-1].outputs[0]], f"{mask.name}.of_queries", sizes, dtype)


def _size_nodes(graph: ir.Graph, attention: _Attention, *, name: str) -> Iterator[ir.Node]:
    """[1, 1, T, 1]. T is read off an input that has it, which all layers share, or else off the queries."""
    source, axis = attention.query, 2
    if attention.tokens != ir.SymbolicDim(None):
        named = ((value, list(value.shape)) for value in graph.inputs if value.shape is not None)
        source, axis = next(
            ((value, sizes.index(attention.tokens)) for value, sizes in named if attention.tokens in sizes),
            (source, axis),
        )
    one = _constant(graph, "mask.one", np.array([1], dtype=np.int64))
    size = _node("Shape", [source], f"{name}.queries", [1], ir.DataType.INT64)
    size.attributes["start"], size.attributes["end"] = ir.AttrInt64("start", axis), ir.AttrInt64("end", axis + 1)
    yield size
    sizes = _node("Concat", [one, one, size.outputs[0], one], name, [4], ir.DataType.INT64)
    sizes.attributes["axis"] = ir.AttrInt64("axis", 0)
    yield sizes


def _node(
    operator: str,
    inputs: list[ir.Value],
    name: str,
    shape: Iterable[int | ir.SymbolicDim],
    dtype: ir.DataType,
) -> ir.Node:
    node = ir.node(operator, inputs, name=name)
    output = node.outputs[0]
    output.name, output.shape, output.type = name, ir.Shape(shape), ir.TensorType(dtype)
    return node


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    if name not in graph.initializers:
        graph.register_initializer(initializer_from_array(name, array))
    return graph.initializers[name]


def _remove(graph: ir.Graph, last: ir.Node) -> None:
    """Remove `last`, and whatever only it needed."""
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node.graph is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        producers = [value.producer() for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        waiting += [producer for producer in producers if producer is not None]


def _raise_opset(model: ir.Model) -> None:
    if model.opset_imports[""] < OPSET:
        version_converter.convert_version(model, OPSET, fallback=True)
    if model.opset_imports[""] < OPSET:
        raise PassError(
            f"onnx cannot raise this graph to opset {OPSET}, which has Attention: export it with --opset {OPSET}."
        )
