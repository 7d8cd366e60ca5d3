"""x Wq + bq, x Wk + bk, x Wv + bv -> Split(x [Wq Wk Wv] + [bq bk bv]): one product for what an attention reads.

Rules:
1. Merged are linear layers of one value that, apart from being made into heads, are read by products of an attention:
   queries, keys and values; keys and values alone where the queries are of fewer rows or of another sequence.
2. Keys and values of a memory that the graph only gives out stay apart: each is an output, and would be copied once
   more.
3. The weights are put side by side when they are saved. Results keep their names.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.rewriting.base import ExplainingPass, GraphTraits, Refusal
from rpln_graphs.rewriting.initializers import concatenated_initializer, initializer_from_array
from rpln_graphs.rewriting.projections import NO_PROJECTION, Projection, is_constant, projection_from_matmul

HEADS: Final = frozenset({"Reshape", "Transpose", "Concat", "Cast"})
"""What makes heads of a projection's result, puts a past before them, and widens them where fp16 is too narrow."""


class MergeProjections(ExplainingPass):
    """Counts the values whose projections became one."""

    def formula(self, traits: GraphTraits) -> int:
        """L: cross-attention has one projection here, of queries, and is given keys and values."""
        return traits.layers

    def rewrite(self, model: ir.Model) -> int:
        """Merge all groups, record what in them was refused."""
        merged, refusals = 0, []
        for products in list(_groups(model.graph)):
            found = [(product, projection_from_matmul(product)) for product in products]
            refusals += [
                Refusal(node=product.name or "", reason=f"it {NO_PROJECTION}")
                for product, projection in found
                if projection is None
            ]
            projections = [projection for _, projection in found if projection is not None]
            if len(projections) > 1:
                _merge(model.graph, projections)
                merged += 1
        self.record(model, refusals)
        return merged


def _groups(graph: ir.Graph) -> Iterator[list[ir.Node]]:
    """The products with matrices that read one value, where an attention reads what comes of several (rule 1)."""
    for value in chain(graph.inputs, chain.from_iterable(node.outputs for node in graph)):
        products = [use.node for use in value.uses() if use.idx == 0 and _is_attended(use.node)]
        if len(products) > 1:
            yield products


def _is_attended(product: ir.Node) -> bool:
    """Whether `product` is one with a matrix, and its result goes into a product of heads."""
    if product.op_type != "MatMul" or not is_constant(product.inputs[1]):
        return False
    reached = list(product.outputs)
    for value in reached:  # which grows on the way
        for use in value.uses():
            if use.node.op_type == "MatMul" and not any(is_constant(operand) for operand in use.node.inputs):
                return True
            if use.node.op_type in HEADS or (use.node.op_type == "Add" and value is product.outputs[0]):
                reached.extend(use.node.outputs)
    return False


def _merge(graph: ir.Graph, projections: Sequence[Projection]) -> None:
    first = projections[0]
    source = first.matmul.inputs[0]
    assert source is not None
    weights, biases = ([getattr(one, part) for one in projections] for part in ("weight", "bias"))
    weight = concatenated_initializer(weights, axis=1, name=_joined_name(weights))
    bias = concatenated_initializer(biases, axis=0, name=_joined_name(biases))
    sizes = _sizes(graph, projections)
    for value in (weight, bias):
        graph.register_initializer(value)

    matmul = ir.node("MatMul", [source, weight], name=_joined_name([one.matmul for one in projections]))
    add = ir.node("Add", [matmul.outputs[0], bias], name=_joined_name([one.add for one in projections]))
    split = ir.node("Split", [add.outputs[0], sizes], {"axis": -1}, num_outputs=len(projections))
    split.name = f"{add.name}.Split"
    for node in (matmul, add):
        output = node.outputs[0]
        assert first.weight.dtype is not None
        output.name, output.type = node.name, ir.TensorType(first.weight.dtype)
        output.shape = _widened(first.result, sum(one.width for one in projections))
    producer = source.producer()
    if producer is None:
        graph.insert_before(graph[0], [matmul, add, split])
    else:
        graph.insert_after(producer, [matmul, add, split])
    for projection, output in zip(projections, split.outputs, strict=True):
        _replace(graph, projection, output)


def _replace(graph: ir.Graph, projection: Projection, output: ir.Value) -> None:
    """Let `output` take the place and the name of what `projection` computes."""
    result = projection.result
    output.name, output.shape, output.type = result.name, result.shape, result.type
    ir.convenience.replace_all_uses_with(result, output, replace_graph_outputs=True)
    graph.remove([projection.add, projection.matmul], safe=True)
    for value in (projection.weight, projection.bias):
        del graph.initializers[value.name or ""]


def _sizes(graph: ir.Graph, projections: Sequence[Projection]) -> ir.Value:
    widths = [one.width for one in projections]
    name = f"split.{'x'.join(map(str, widths))}"
    if name not in graph.initializers:
        graph.register_initializer(initializer_from_array(name, np.array(widths, dtype=np.int64)))
    return graph.initializers[name]


def _widened(result: ir.Value, width: int) -> ir.Shape | None:
    return None if result.shape is None else ir.Shape([*result.shape[:-1], width])


def _joined_name(named: Sequence[ir.Value] | Sequence[ir.Node]) -> str:
    """a.query.weight, a.key.weight, a.value.weight -> a.query_key_value.weight."""
    columns = zip_longest(*((one.name or "").split(".") for one in named), fillvalue="")
    return ".".join("_".join(dict.fromkeys(column)) for column in columns)
