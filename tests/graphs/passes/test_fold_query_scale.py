"""(Q K^T) s -> (Q s) K^T."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.passes.fold_query_scale import OTHER_PRODUCT, OTHER_QUERIES, READ_UNSCALED, FoldQueryScale
from rpln_graphs.rewriting.traits import RELATIVE_POSITIONS, UNSCALED, GraphTraits
from tests.graphs.decoders import translating
from tests.graphs.folded import applied, apply, change, distance, refused
from tests.graphs.networks import trace_task
from tests.graphs.text_graphs import Arrays, model_from_text, operators, values_of

ATTENTION = """
g (float[rows, 2] x, float[2, rows] keys, float[rows, rows] mask) => (float[rows, rows] y)
<float[2, 2] weight = {1, 2, 3, 4}, float[2] bias = {5, 6}, float scale = {0.25}>
{
    product = MatMul(x, weight)
    queries = Add(product, bias)
    scores = MatMul(queries, keys)
    scaled = Mul(scores, scale)
    masked = Add(scaled, mask)
    y = Softmax(masked)
}
"""
FEEDS: Arrays = {
    "x": np.array([[0.1, -0.2], [0.3, 0.4], [-0.5, 0.6]], dtype=np.float32),
    "keys": np.array([[1, 0.5, -1], [-0.3, 0.2, 0.1]], dtype=np.float32),
    "mask": np.array([[0, -1e9, 0], [0, 0, 0], [-1e9, -1e9, 0]], dtype=np.float32),
}


@pytest.mark.parametrize("product", ["Mul(scores, scale)", "Mul(scale, scores)"])
@pytest.mark.parametrize("mask", ["Add(scaled, mask)", "Add(mask, scaled)"])
def test_the_scale_goes_into_weight_and_bias(product: str, mask: str) -> None:
    before = model_from_text(ATTENTION.replace("Mul(scores, scale)", product).replace("Add(scaled, mask)", mask))
    after = applied(before, FoldQueryScale)

    assert operators(after) == ["MatMul", "Add", "MatMul", "Add", "Softmax"]
    assert set(after.graph.initializers) == {"weight", "bias"}
    assert_array_equal(values_of(after.graph.initializers["weight"]), [[0.25, 0.5], [0.75, 1]])
    assert_array_equal(values_of(after.graph.initializers["bias"]), [1.25, 1.5])
    assert change(before, after, FEEDS) == 0  # by a power of two
    assert refused(after, FoldQueryScale) == {}


def test_scores_without_a_mask() -> None:
    before = model_from_text(ATTENTION.replace("Softmax(masked)", "Softmax(scaled)"))
    after = applied(before, FoldQueryScale)

    assert "Mul" not in operators(after)
    assert change(before, after, FEEDS) == 0


def test_another_factor_rounds_once() -> None:
    after = applied(model_from_text(ATTENTION.replace("0.25", "0.3")), FoldQueryScale)

    expected = np.array([[1, 2], [3, 4]], dtype=np.float32) * np.float32(0.3)
    assert_array_equal(values_of(after.graph.initializers["weight"]), expected)


@pytest.mark.parametrize(
    ("text", "replacement", "reason"),
    [
        ("scores = MatMul(queries, keys)", "raw = MatMul(queries, keys)\n scores = Add(raw, mask)", OTHER_PRODUCT),
        ("masked = Add(scaled, mask)", "masked = Add(scaled, scores)", READ_UNSCALED),
        ("masked = Add(scaled, mask)", "masked = Add(scaled, queries)", OTHER_QUERIES),
        ("product = MatMul(x, weight)", "product = MatMul(x, keys)", OTHER_QUERIES),
        ("scores = MatMul(queries, keys)", "scores = MatMul(x, keys)", OTHER_QUERIES),
        ("scores = MatMul(queries, keys)", "flat = Relu(queries)\n scores = MatMul(flat, keys)", OTHER_QUERIES),
        ("product = MatMul(x, weight)", "product = MatMul(weight, weight)", OTHER_QUERIES),
    ],
)
def test_what_is_refused_stays_as_it_was(text: str, replacement: str, reason: str) -> None:
    model = model_from_text(ATTENTION.replace(text, replacement))
    before = operators(model)

    assert apply(model, FoldQueryScale) == {"FoldQueryScale": 0}
    assert operators(model) == before
    assert_array_equal(values_of(model.graph.initializers["weight"]), [[1, 2], [3, 4]])
    assert refused(model, FoldQueryScale) == {"scaled": reason}


def test_scores_that_the_graph_gives_out_are_refused() -> None:
    model = model_from_text(
        ATTENTION.replace("(float[rows, rows] y)", "(float[rows, rows] y, float[rows, rows] scores)")
    )

    assert apply(model, FoldQueryScale) == {"FoldQueryScale": 0}
    assert refused(model, FoldQueryScale) == {"scaled": READ_UNSCALED}


def test_a_factor_that_is_given_is_none() -> None:
    model = model_from_text(ATTENTION.replace("rows] mask)", "rows] mask, float scale)"))

    assert apply(model, FoldQueryScale) == {"FoldQueryScale": 0}


def test_all_attentions_of_an_encoder_by_a_power_of_two() -> None:
    network = trace_task("feature-extraction", inputs=("input_ids", "attention_mask"), num_attention_heads=2)
    graph = applied(network.graph, FoldQueryScale)

    # All layers share the factor, which is removed with the last node that reads it.
    assert len(graph.graph.initializers) == len(network.graph.graph.initializers) - 1
    assert len(graph.graph) == len(network.graph.graph) - 2
    assert distance(network, graph) == distance(network, network.graph) < 1e-5


@pytest.mark.parametrize("variant", ["with-past", "prefill"])
def test_all_attentions_of_a_decoder(variant: str) -> None:
    network = translating(variant)
    graph = applied(network.graph, FoldQueryScale)

    assert len(graph.graph) == len(network.graph.graph) - 2 * 2
    assert distance(network, graph) < 1e-5
    assert FoldQueryScale().expected(GraphTraits(layers=2, cross_attention=True)) == 2 * 2


def test_what_else_the_graph_gives_out_does_not_matter() -> None:
    network = trace_task("token-classification", inputs=("input_ids",), outputs=("hidden_states", "attentions"))
    graph = applied(network.graph, FoldQueryScale)

    assert len(graph.graph) == len(network.graph.graph) - 2
    assert distance(network, graph) < 1e-5


@pytest.mark.parametrize(
    ("task", "position", "folded"),
    [("fill-mask", "relative_key_query", 0), ("text2text-generation", "relative_key", 2)],
)
def test_relative_positions_keep_their_scale(task: str, position: str, folded: int) -> None:
    variant = "with-past" if folded else "full"
    network = trace_task(task, variant=variant, inputs=("input_ids",), position_embedding_type=position)
    graph = applied(network.graph, FoldQueryScale)

    assert len(graph.graph) == len(network.graph.graph) - folded
    assert refused(graph, FoldQueryScale) == {
        f"encoder.layer.{layer}.attention.self.Mul": OTHER_PRODUCT for layer in range(2)
    }
    assert distance(network, graph) < 1e-5
    formulas = GraphTraits(layers=2, cross_attention=folded > 0, features=frozenset({RELATIVE_POSITIONS}))
    assert FoldQueryScale().expected(formulas) == folded
    assert FoldQueryScale().exceptions(formulas)


def test_the_formula_of_an_encoder() -> None:
    assert FoldQueryScale().expected(GraphTraits(layers=12)) == 12
    unscaled = GraphTraits(layers=12, cross_attention=True, features=frozenset({UNSCALED}))
    assert FoldQueryScale().expected(unscaled) == 0
