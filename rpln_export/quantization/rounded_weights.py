"""Weights that are rounded for their inputs: what texts give the products of graphs that compute an answer together."""

from collections.abc import Callable, Sequence
from typing import Any

from rpln_export.checkpoint.planned_graphs import TracedGraph
from rpln_export.validation.graphs_under_test import GraphUnderTest
from rpln_graphs.passes.quantize_weights import QuantizeWeights
from rpln_graphs.quantization.blocks import Blocks, identity_of_weight
from rpln_graphs.quantization.error_aware import compensation
from rpln_graphs.quantization.observe import moments
from rpln_graphs.quantization.products import layer_products
from rpln_graphs.quantization.quantizers import Array
from rpln_graphs.rewriting.values import tensor_of
from rpln_graphs.sessions import run_from_model


def rounded_for_inputs(
    kind: type[QuantizeWeights],
    graphs: Sequence[TracedGraph],
    traced: Sequence[TracedGraph],
    under_test: GraphUnderTest,
    cases: Sequence[Any],
    *,
    advance: Callable[[], None],
) -> dict[bytes, Blocks]:
    """Return the weights of the layers of `graphs` as `kind` rounds them for their inputs, by `identity_of_weight`.

    The inputs are those in `traced`, the same graphs as they were traced: their last layers compute all tokens, and not
    only those that a head reads. A weight of several graphs is rounded for the first one. `advance` is called after
    each case.
    """
    rewritten = {graph.planned: graph.model for graph in graphs}
    used = [graph for graph in traced if graph.planned in under_test.planned_graphs]
    runs = {graph.planned.name: run_from_model(graph.model) for graph in used if graph.planned.is_encoder}
    rounded: dict[bytes, Blocks] = {}
    for graph in used:
        # A recipe scales and rounds weights, but they keep their names. Their inputs are as large as before, or all of
        # them are smaller by one factor, which makes no difference here.
        inputs = {product.weight.name: product.activation.name or "" for product in layer_products(graph.model)}
        readers: dict[str, dict[bytes, Array]] = {}
        for product in layer_products(rewritten[graph.planned]):
            weight = tensor_of(product.weight).numpy()
            identity = identity_of_weight(weight)
            if identity not in rounded:
                readers.setdefault(inputs[product.weight.name], {})[identity] = weight
        if readers:
            feeds = (under_test.full_feeds(case, graph.planned, runs) for case in cases)
            for name, summed in moments(graph.model, list(readers), feeds, advance=advance).items():
                factor = compensation(summed)
                found = {identity: kind.rounded_for_inputs(one, factor) for identity, one in readers[name].items()}
                rounded.update({identity: blocks for identity, blocks in found.items() if blocks is not None})
    return rounded
