"""(words + type) + positions[ids] -> words + (positions + type)[ids]."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.passes.fold_token_types import NO_TABLE, NOT_ADDED, OTHER_ROWS, FoldTokenTypes
from rpln_graphs.rewriting.traits import RELATIVE_POSITIONS, TOKEN_TYPES, GraphTraits
from tests.graphs.folded import applied, apply, change, distance, refused
from tests.graphs.networks import trace_task
from tests.graphs.text_graphs import Arrays, model_from_text, operators, values_of

EMBEDDINGS = """
g (int64[rows] words, int64[rows] places) => (float[rows, 2] y)
<float[3, 2] table = {1, 2, 3, 4, 5, 6}, float[3, 2] positions = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6},
 float[2] type = {10, 20}>
{
    word = Gather(table, words)
    typed = Add(word, type)
    place = Gather(positions, places)
    y = Add(typed, place)
}
"""
FEEDS: Arrays = {"words": np.array([0, 2, 1]), "places": np.array([1, 0, 2])}


@pytest.mark.parametrize("operands", ["typed = Add(word, type)", "typed = Add(type, word)"])
def test_the_vector_goes_into_the_positions(operands: str) -> None:
    before = model_from_text(EMBEDDINGS.replace("typed = Add(word, type)", operands))
    after = applied(before, FoldTokenTypes)

    assert operators(after) == ["Gather", "Gather", "Add"]
    assert set(after.graph.initializers) == {"table", "positions"}
    expected = np.array([[10.1, 20.2], [10.3, 20.4], [10.5, 20.6]], dtype=np.float32)
    assert_array_equal(values_of(after.graph.initializers["positions"]), expected)
    assert 0 <= change(before, after, FEEDS) < 1e-6
    assert refused(after, FoldTokenTypes) == {}


def test_the_table_of_words_is_not_changed() -> None:
    after = applied(model_from_text(EMBEDDINGS), FoldTokenTypes)

    assert_array_equal(values_of(after.graph.initializers["table"]), [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize(
    ("text", "replacement", "reason"),
    [
        ("y = Add(typed, place)", "y = Mul(typed, place)", NOT_ADDED),
        ("y = Add(typed, place)", "z = Add(typed, place)\n y = Add(typed, z)", NOT_ADDED),
        ("y = Add(typed, place)", "y = Add(typed, word)", NO_TABLE),
        ("y = Add(typed, place)", "z = Add(typed, place)\n y = Add(place, z)", NO_TABLE),
        ("word = Gather(table, words)", "word = Gather(positions, words)", NO_TABLE),
        ("Gather(positions, places)", "Gather<axis = 1>(turned, places)", NO_TABLE),
        ("Gather(positions, places)", "Gather(listed, places)", NO_TABLE),
        ("float[2] type = {10, 20}", "float[1] type = {10}", OTHER_ROWS),
    ],
)
def test_what_is_refused_stays_as_it_was(text: str, replacement: str, reason: str) -> None:
    more = "float[3, 3] turned = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] listed = {1, 2, 3}, float[2] type"
    changed = EMBEDDINGS.replace(text, replacement).replace("float[2] type", more)
    if "axis = 1" in replacement:
        changed = changed.replace("words, int64[rows] places", "words, int64[2] places")
    model = model_from_text(changed)
    before = operators(model)

    assert apply(model, FoldTokenTypes) == {"FoldTokenTypes": 0}
    assert operators(model) == before
    assert refused(model, FoldTokenTypes) == {"typed": reason}


def test_a_sum_that_the_graph_gives_out_is_refused() -> None:
    model = model_from_text(EMBEDDINGS.replace("(float[rows, 2] y)", "(float[rows, 2] y, float[rows, 2] typed)"))

    assert apply(model, FoldTokenTypes) == {"FoldTokenTypes": 0}
    assert refused(model, FoldTokenTypes) == {"typed": NOT_ADDED}


def test_a_table_that_can_be_given_is_no_constant() -> None:
    model = model_from_text(EMBEDDINGS.replace("int64[rows] places)", "int64[rows] places, float[3, 2] positions)"))

    assert apply(model, FoldTokenTypes) == {"FoldTokenTypes": 0}


def test_the_bias_of_a_linear_layer_is_no_token_type() -> None:
    model = model_from_text("""
    g (float[rows, 2] x, int64[rows] places) => (float[rows, 2] y)
    <float[2, 2] weight = {1, 2, 3, 4}, float[2] bias = {5, 6}, float[3, 2] positions = {1, 2, 3, 4, 5, 6}>
    {
        product = MatMul(x, weight)
        projected = Add(product, bias)
        place = Gather(positions, places)
        y = Add(projected, place)
    }
    """)

    assert apply(model, FoldTokenTypes) == {"FoldTokenTypes": 0}
    assert refused(model, FoldTokenTypes) == {}


@pytest.mark.parametrize("inputs", [("input_ids", "attention_mask"), ("inputs_embeds", "attention_mask")])
def test_networks_with_one_type_of_token(inputs: tuple[str, ...]) -> None:
    network = trace_task("fill-mask", inputs=inputs, type_vocab_size=1)
    graph = applied(network.graph, FoldTokenTypes)

    assert len(graph.graph) == len(network.graph.graph) - 1
    assert 0 < distance(network, graph) < 1e-5
    assert FoldTokenTypes().expected(GraphTraits(layers=2)) == 1


def test_the_first_of_several_types_is_folded_where_tokens_have_no_other() -> None:
    network = trace_task("feature-extraction", inputs=("input_ids",), type_vocab_size=3)
    graph = applied(network.graph, FoldTokenTypes)

    assert len(graph.graph) == len(network.graph.graph) - 1
    assert distance(network, graph) < 1e-5


@pytest.mark.parametrize(
    ("fields", "feature", "left"),
    [
        ({"type_vocab_size": 3, "inputs": ("input_ids", "token_type_ids")}, TOKEN_TYPES, 0),
        ({"position_embedding_type": "relative_key", "inputs": ("input_ids",)}, RELATIVE_POSITIONS, 1),
    ],
)
def test_exceptions_are_left_alone(fields: dict[str, Any], feature: str, left: int) -> None:
    network = trace_task("feature-extraction", **fields)
    graph = network.graph

    assert apply(graph, FoldTokenTypes) == {"FoldTokenTypes": 0}
    assert len(refused(graph, FoldTokenTypes)) == left
    assert FoldTokenTypes().expected(GraphTraits(layers=2, features=frozenset({feature}))) == 0
    assert FoldTokenTypes.unless[feature]


def test_a_graph_without_layers_has_no_embeddings() -> None:
    assert FoldTokenTypes().expected(GraphTraits(layers=0)) == 0
