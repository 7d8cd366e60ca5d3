"""Softmax(Q K^T s + mask) V, head by head -> Attention(Q, K, V, mask), ONNX's own operator since opset 23.

Rules:
1. Where queries, keys and values come straight from projections and nobody else reads them, the operator takes them as
   [batch, tokens, hidden] and separates the heads itself. Where their heads are separate already, because they come
   from a cache or an encoder, it takes [batch, heads, tokens, head size]. Its own past and present are not used:
   TensorRT knows the operator with one output only, so a Concat still puts the past before the new keys.
2. A scale becomes an attribute of the operator. Without one, because the weights contain it, the attribute is 1.
3. The mask is still added, but its lowest values are raised. ONNX Runtime takes fp32's lowest number for "no key at
   all" and returns zeros; above it, a text of padding alone attends to all keys alike, as it did. In fp16 they are
   raised until a score can be added without overflow; a text of padding alone then attends as if it had no mask.
4. ONNX Runtime wants a row of the mask for each query: a mask that is the same for all queries is expanded, once for
   all layers. A mask of fewer than four axes gets the first ones.
5. Scores that LowerPrecision left in fp32 are refused: the operator would compute them in fp16.

The graph is raised to opset 23 if there is anything to fuse.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import version_converter

from rpln_graphs.errors import PassError
from rpln_graphs.rewriting.attentions import (
    HEADS_FIRST,
    HEADS_FIRST_TURNED,
    TURNED,
    AttentionPass,
    TracedAttention,
    attention_around,
    sole_maker,
)
from rpln_graphs.rewriting.folding import FoldingPass
from rpln_graphs.rewriting.initializers import shared_initializer
from rpln_graphs.rewriting.nodes import cast_node, take_place, typed_node
from rpln_graphs.rewriting.values import Size, operand, permutation, rank, sole_reader

OPSET: Final = 23
LOWEST: Final = {ir.DataType.FLOAT: -1e30, ir.DataType.BFLOAT16: -1e30, ir.DataType.FLOAT16: -3e4}
"""What a mask adds to hide a key: it is below any score, and with a score added it is not infinite."""

OTHER_OPERANDS: Final = "its queries are not known to be floats of four axes, or its mask to have at most four axes"


class FuseAttention(AttentionPass, FoldingPass):
    """A pass that makes attention one standard operator. It counts the attentions that it fused."""

    def candidates(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every Softmax of the graph."""
        return (node for node in model.graph if node.op_type == "Softmax")

    def rewrite(self, model: ir.Model) -> int:
        """Raise the opset if there is anything to fuse, fuse it, let layers share their mask, and return the count."""
        if any(isinstance(_fusable_attention(node), TracedAttention) for node in self.candidates(model)):
            _raise_opset(model)
        count = super().rewrite(model)
        if count:
            for tidy in (common.CommonSubexpressionEliminationPass(), common.RemoveUnusedNodesPass()):
                tidy(model)
        return count

    def fold(self, node: ir.Node) -> str | None:
        """Replace the attention around a Softmax by the operator, or return the reason why not."""
        attention = _fusable_attention(node)
        if isinstance(attention, str):
            return attention
        _fuse(attention)
        return None


def _fusable_attention(softmax: ir.Node) -> TracedAttention | str:
    """Return the attention around `softmax`, or the reason why the operator cannot replace it (rule 5 among them)."""
    found = attention_around(softmax)
    if isinstance(found, str):
        return found
    typed = all(value.dtype in LOWEST for value in (found.query, found.mask) if value is not None)
    fits = rank(found.query) == 4 and (found.mask is None or rank(found.mask) in range(1, 5))
    return found if typed and fits else OTHER_OPERANDS


def _fuse(attention: TracedAttention) -> None:
    """Replace the nodes of an attention by the operator, and by nodes that make its mask."""
    graph, heads = attention.context.graph, _size(attention.query, 1)
    assert isinstance(graph, ir.Graph)
    attributes: dict[str, int | float] = {"scale": attention.scale}  # rule 2
    whole = _whole_operands(attention)
    if whole is None or not isinstance(heads, int):
        keys, nodes = _keys_with_heads(attention.turned)
        operands, replaced = [attention.query, keys, attention.value], attention.context
    else:
        operands, nodes, replaced = whole, [], _chain_behind(attention.context)[-1]
        attributes |= {"q_num_heads": heads, "kv_num_heads": heads}
    if attention.mask is not None:
        nodes += _mask_nodes(graph, attention, attention.mask)
        operands.append(nodes[-1].outputs[0])
    node = ir.node("Attention", operands, attributes, name=replaced.outputs[0].name)
    graph.insert_before(replaced, [*nodes, node])
    take_place(node.outputs[0], replaced.outputs[0])
    _remove(graph, replaced)


def _size(value: ir.Value, axis: int) -> Size:
    """Return the size of `value` in `axis`."""
    assert value.shape is not None
    return value.shape[axis]


# -- queries, keys and values ----------------------------------------------------------------------------------------


def _whole_operands(attention: TracedAttention) -> list[ir.Value] | None:
    """Return queries, keys and values as the projections made them (rule 1), or None if they have heads already."""
    found = [
        _before_heads(attention.query, HEADS_FIRST),
        _before_heads(attention.turned.outputs[0], HEADS_FIRST_TURNED),
        _before_heads(attention.value, HEADS_FIRST),
    ]
    whole = [value for value in found if value is not None]
    return whole if len(whole) == len(found) and len(_chain_behind(attention.context)) == 2 else None


def _before_heads(value: ir.Value, order: tuple[int, ...]) -> ir.Value | None:
    """Return [batch, tokens, hidden], of which `value` is the heads; None if it is not, or if others read them."""
    transpose = sole_maker(value, "Transpose")
    if transpose is None or permutation(transpose) != order:
        return None
    reshape = sole_maker(transpose.inputs[0], "Reshape")
    return reshape.inputs[0] if reshape is not None and rank(reshape.inputs[0]) == 3 else None


def _chain_behind(context: ir.Node) -> list[ir.Node]:
    """Return the Transpose and the Reshape that put the heads side by side, or those of them that are there."""
    transpose = sole_reader(context.outputs[0])
    if transpose is None or transpose.op_type != "Transpose" or permutation(transpose) != HEADS_FIRST:
        return []
    reshape = sole_reader(transpose.outputs[0])
    if reshape is None or reshape.op_type != "Reshape" or rank(reshape.outputs[0]) != 3:
        return [transpose]
    return [transpose, reshape]


def _keys_with_heads(turned: ir.Node) -> tuple[ir.Value, list[ir.Node]]:
    """Return the keys [B, H, S, K] before `turned` turned them, and the node that makes them, if it is a new one."""
    source, keys_BHKS = operand(turned, 0), turned.outputs[0]
    if permutation(turned) == TURNED:
        return source, []
    shape = None if keys_BHKS.shape is None else [keys_BHKS.shape[axis] for axis in TURNED]
    name, order = f"{keys_BHKS.name}.heads", {"perm": HEADS_FIRST}
    node = typed_node("Transpose", [source], order, name=name, dtype=keys_BHKS.dtype, shape=shape)
    return node.outputs[0], [node]


# -- the mask --------------------------------------------------------------------------------------------------------


def _mask_nodes(graph: ir.Graph, attention: TracedAttention, mask: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that make of `mask` what the operator takes (rules 3 and 4); the last one returns it."""
    dtype, queries = attention.query.dtype, _size(attention.query, 2)
    assert dtype is not None
    assert mask.dtype is not None
    assert mask.shape is not None
    lowest = shared_initializer(graph, f"{mask.name}.lowest", np.array(LOWEST[dtype], dtype=mask.dtype.numpy()))
    node = typed_node("Max", [mask, lowest], name=f"{mask.name}.raised", dtype=mask.dtype, shape=mask.shape)
    yield node
    if mask.dtype != dtype:
        node = cast_node(node.outputs[0], dtype, name=f"{mask.name}.{dtype.name.lower()}")
        yield node
    missing = 4 - len(mask.shape)
    sizes = [*(1,) * missing, *mask.shape]
    if missing:
        axes = shared_initializer(graph, f"{mask.name}.axes", np.arange(missing))
        name = f"{mask.name}.four_axes"
        node = typed_node("Unsqueeze", [node.outputs[0], axes], name=name, dtype=dtype, shape=sizes)
        yield node
    if sizes[2] == 1 and queries != 1:
        counted = list(_size_nodes(graph, attention, name=f"{mask.name}.sizes"))
        yield from counted
        sizes[2] = queries
        target = counted[-1].outputs[0]
        yield typed_node("Expand", [node.outputs[0], target], name=f"{mask.name}.of_queries", dtype=dtype, shape=sizes)


def _size_nodes(graph: ir.Graph, attention: TracedAttention, *, name: str) -> Iterator[ir.Node]:
    """Yield the nodes that compute the shape [1, 1, T, 1]; the last one returns it.

    T is read from an input that has it, so that all layers share the nodes, or else from the queries.
    """
    tokens = _size(attention.query, 2)
    places = [
        (value, list(value.shape).index(tokens))
        for value in graph.inputs
        if tokens != ir.SymbolicDim(None) and value.shape is not None and tokens in list(value.shape)
    ]
    source, axis = next(iter(places), (attention.query, 2))
    one = shared_initializer(graph, "mask.one", [1])
    part = {"start": axis, "end": axis + 1}
    size = typed_node("Shape", [source], part, name=f"{name}.queries", dtype=ir.DataType.INT64, shape=[1])
    yield size
    sizes = [one, one, size.outputs[0], one]
    yield typed_node("Concat", sizes, {"axis": 0}, name=name, dtype=ir.DataType.INT64, shape=[4])


# -- the graph -------------------------------------------------------------------------------------------------------


def _remove(graph: ir.Graph, last: ir.Node) -> None:
    """Remove `last`, and the nodes that only it needed."""
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node.graph is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        producers = [value.producer() for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        waiting += [producer for producer in producers if producer is not None]


def _raise_opset(model: ir.Model) -> None:
    """Convert the graph to OPSET if it has an older one. Raises PassError if that fails."""
    if model.opset_imports[""] < OPSET:
        version_converter.convert_version(model, OPSET, fallback=True)
    if model.opset_imports[""] < OPSET:
        raise PassError(
            f"onnx cannot convert this graph to opset {OPSET}, the first with the operator Attention. Export it with "
            f"--opset {OPSET}."
        )
