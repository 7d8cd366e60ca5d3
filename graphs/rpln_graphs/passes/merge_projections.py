"""x Wq + bq, x Wk + bk, x Wv + bv -> Split(x [Wq Wk Wv] + [bq bk bv]): one product for what an attention reads.

Rules:
1. Linear layers are merged if they read one value, and products of an attention read their results, apart from nodes
   that separate heads: queries, keys and values; keys and values alone where the queries have fewer rows or come from
   another sequence.
2. Keys and values of an encoder's output that are outputs of the graph stay apart: merged, each would be copied once
   more.
3. The weights are put side by side when they are saved. The results keep their names.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Final

import onnx_ir as ir

from rpln_graphs.rewriting.base import ExplainingPass, refused
from rpln_graphs.rewriting.initializers import concatenated_initializer, shared_initializer
from rpln_graphs.rewriting.nodes import insert_behind, take_place, typed_node
from rpln_graphs.rewriting.projections import NO_PROJECTION, Projection, projection_from_matmul
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.rewriting.values import is_constant, operand

SEPARATING: Final = frozenset({"Reshape", "Transpose", "Concat", "Cast"})
"""The operators that separate heads, put a past before them, and widen them where fp16 is too narrow."""


class MergeProjections(ExplainingPass):
    """A pass that merges projections of one value. It counts the values whose projections it merged."""

    def formula(self, traits: GraphTraits) -> int:
        """Return one for each layer: in a decoder's graph, a cross-attention has only the projection of its queries."""
        return traits.layers

    def rewrite(self, model: ir.Model) -> int:
        merged, refusals = 0, []
        for products in list(_groups(model.graph)):
            found = [(product, projection_from_matmul(product)) for product in products]
            refusals += [refused(product, f"it {NO_PROJECTION}") for product, layer in found if layer is None]
            projections = [layer for _, layer in found if layer is not None]
            if len(projections) > 1:
                _merge(model.graph, projections)
                merged += 1
        self.record(model, refusals)
        return merged


def _groups(graph: ir.Graph) -> Iterator[list[ir.Node]]:
    """Yield, for each value, the products with a matrix that read it for an attention, if these are several."""
    for value in chain(graph.inputs, chain.from_iterable(node.outputs for node in graph)):
        products = [use.node for use in value.uses() if use.idx == 0 and _is_attended(use.node)]
        if len(products) > 1:
            yield products


def _is_attended(product: ir.Node) -> bool:
    """Return whether `product` has a constant matrix, and a product of heads reads its result (rules 1 and 2)."""
    if product.op_type != "MatMul" or not is_constant(product.inputs[1]):
        return False
    reached = list(product.outputs)
    for value in reached:  # the list grows in this loop
        for use in value.uses():
            if use.node.op_type == "MatMul" and not any(is_constant(factor) for factor in use.node.inputs):
                return True
            if use.node.op_type in SEPARATING or (use.node.op_type == "Add" and value is product.outputs[0]):
                reached.extend(use.node.outputs)
    return False


def _merge(graph: ir.Graph, projections: Sequence[Projection]) -> None:
    """Compute all of `projections` by one product, one Add and one Split (rule 3)."""
    first, widths = projections[0], [layer.width for layer in projections]
    source, result = operand(first.matmul, 0), first.result
    weight, bias = (
        concatenated_initializer(parts, axis=axis, name=_joined_name(parts))
        for axis, parts in ((1, [layer.weight for layer in projections]), (0, [layer.bias for layer in projections]))
    )
    for value in (weight, bias):
        graph.register_initializer(value)
    sizes = shared_initializer(graph, f"split.{'x'.join(map(str, widths))}", widths)
    shape = None if result.shape is None else [*result.shape[:-1], sum(widths)]
    names = (_joined_name([layer.matmul for layer in projections]), _joined_name([layer.add for layer in projections]))
    matmul = typed_node("MatMul", [source, weight], name=names[0], dtype=weight.dtype, shape=shape)
    add = typed_node("Add", [matmul.outputs[0], bias], name=names[1], dtype=weight.dtype, shape=shape)
    split = ir.node("Split", [add.outputs[0], sizes], {"axis": -1}, num_outputs=len(projections))
    split.name = f"{add.name}.Split"
    insert_behind(graph, source.producer(), [matmul, add, split])
    for layer, output in zip(projections, split.outputs, strict=True):
        take_place(output, layer.result)
        graph.remove([layer.add, layer.matmul], safe=True)
        for value in layer.constants:
            del graph.initializers[value.name or ""]


def _joined_name(named: Sequence[ir.Value] | Sequence[ir.Node]) -> str:
    """Return one name for several: a.query.weight, a.key.weight, a.value.weight -> a.query_key_value.weight."""
    columns = zip_longest(*((one.name or "").split(".") for one in named), fillvalue="")
    return ".".join("_".join(dict.fromkeys(column)) for column in columns)
