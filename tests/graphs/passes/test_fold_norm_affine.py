"""LN(x; gamma, beta) W + b -> LN(x; 1, 0) (diag(gamma) W) + (b + beta W)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rpln_graphs.passes.fold_norm_affine import GIVEN_OUT, NO_VECTORS, STATISTICS_READ, FoldNormAffine
from rpln_graphs.rewriting.base import CONCESSIONS, OUTLYING_SCALE, refusals_from_model
from rpln_graphs.rewriting.projections import NO_PROJECTION
from rpln_graphs.rewriting.residual_stream import residual_norms
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.conftest import Traced
from tests.graphs.decoders import translating
from tests.graphs.folded import applied, apply, change, distance, refused
from tests.graphs.networks import copied, trace_task
from tests.graphs.text_graphs import Arrays, model_from_text, operators, values_of

BLOCK = """
g (float[rows, 2] x) => (float[rows, 2] y, float[rows, 3] z)
<float[2] gamma = {2, -0.5}, float[2] beta = {0.25, 3},
 float[2, 2] first__weight = {1, 2, 3, 4}, float[2] first__bias = {5, 6},
 float[2, 3] second__weight = {1, 2, 3, 4, 5, 6}, float[3] second__bias = {7, 8, 9}>
{
    normed = LayerNormalization<epsilon = 0.01>(x, gamma, beta)
    product = MatMul(normed, first__weight)
    change = Add(product, first__bias)
    y = Add(x, change)
    other = MatMul(normed, second__weight)
    z = Add(second__bias, other)
}
"""
FEEDS: Arrays = {"x": np.array([[0.1, -0.2], [3, 0.4], [-5, -6]], dtype=np.float32)}


def test_the_affine_goes_into_all_that_follows() -> None:
    before = model_from_text(BLOCK)
    after = applied(before, FoldNormAffine)

    contents = {name: values_of(value) for name, value in after.graph.initializers.items()}
    assert_array_equal(contents["gamma"], [1, 1])
    assert_array_equal(contents["beta"], [0, 0])
    assert_array_equal(contents["first.weight"], [[2, 4], [-1.5, -2]])
    assert_array_equal(contents["second.weight"], [[2, 4, 6], [-2, -2.5, -3]])
    # beta W is 0.25 of the first row plus three times the second.
    assert_array_equal(contents["first.bias"], [5 + 9.25, 6 + 12.5])
    assert_array_equal(contents["second.bias"], [7 + 12.25, 8 + 15.5, 9 + 18.75])
    assert {array.dtype for array in contents.values()} == {np.dtype(np.float32)}
    assert operators(after) == operators(before)
    assert 0 <= change(before, after, FEEDS) < 1e-6
    assert refused(after, FoldNormAffine) == {}


def test_without_a_bias_biases_stay() -> None:
    before = model_from_text(BLOCK.replace("(x, gamma, beta)", "(x, gamma)"))
    after = applied(before, FoldNormAffine)

    assert_array_equal(values_of(after.graph.initializers["first.bias"]), [5, 6])
    assert_array_equal(values_of(after.graph.initializers["gamma"]), [1, 1])
    assert 0 <= change(before, after, FEEDS) < 1e-6


def test_folding_twice_changes_nothing_more() -> None:
    once = applied(model_from_text(BLOCK), FoldNormAffine)
    twice = applied(once, FoldNormAffine)

    for name, value in once.graph.initializers.items():
        assert_array_equal(values_of(value), values_of(twice.graph.initializers[name]), err_msg=name)


def test_only_what_stands_beside_the_stream_is_counted() -> None:
    model = model_from_text(BLOCK.replace("y = Add(x, change)", "y = Relu(change)"))

    assert apply(model, FoldNormAffine) == {"FoldNormAffine": 0}
    assert refused(model, FoldNormAffine) == {}
    assert_array_equal(values_of(model.graph.initializers["gamma"]), [1, 1])


@pytest.mark.parametrize(
    ("text", "replacement", "reason"),
    [
        ("y = Add(x, change)", "more = Relu(normed)\n y = Add(more, change)", f"its reader more {NO_PROJECTION}"),
        ("y = Add(x, change)", "y = Add(normed, change)", f"its reader y {NO_PROJECTION}"),
        ("z = Add(second__bias, other)", "z = Relu(other)", f"its reader other {NO_PROJECTION}"),
        ("z = Add(second__bias, other)", "z = Add(other, other)", f"its reader other {NO_PROJECTION}"),
        ("y = Add(x, change)", "y = Add(product, change)", f"its reader product {NO_PROJECTION}"),
        ("y = Add(x, change)", "y = Add(first__bias, change)", f"its reader product {NO_PROJECTION}"),
        ("MatMul(normed, first__weight)", "MatMul(normed, first__bias)", f"its reader product {NO_PROJECTION}"),
        ("MatMul(normed, second__weight)", "Gemm(normed, second__weight)", f"its reader other {NO_PROJECTION}"),
        ("y = Add(x, change)", "y = Add(gamma, change)", NO_VECTORS),
        ("y = Add(x, change)", "y = Add(beta, change)", NO_VECTORS),
        ("(x, gamma, beta)", "(x, first__bias, beta)", NO_VECTORS),
        ("normed =", "normed, mean =", STATISTICS_READ),
        ("{2, -0.5}", "{257, 1}", OUTLYING_SCALE),
        ("{2, -0.5}", "{0.001, -0.001}", OUTLYING_SCALE),
    ],
)
def test_what_is_refused_stays_as_it_was(text: str, replacement: str, reason: str) -> None:
    changed = BLOCK.replace(text, replacement)
    if "mean" in replacement:
        changed = changed.replace("y = Add(x, change)", "sum = Add(x, change)\n y = Add(sum, mean)")
    model = model_from_text(changed)
    before = {name: values_of(value) for name, value in model.graph.initializers.items()}

    assert apply(model, FoldNormAffine) == {"FoldNormAffine": 0}
    assert refused(model, FoldNormAffine) == {"normed": reason}
    for name, array in before.items():
        assert_array_equal(values_of(model.graph.initializers[name]), array, err_msg=name)


def test_a_result_that_the_graph_gives_out_is_refused() -> None:
    model = model_from_text(BLOCK.replace("(float[rows, 2] y", "(float[rows, 2] normed, float[rows, 2] y"))

    assert apply(model, FoldNormAffine) == {"FoldNormAffine": 0}
    assert refused(model, FoldNormAffine) == {"normed": GIVEN_OUT}


def test_a_weight_that_can_be_given_is_no_constant() -> None:
    model = model_from_text(BLOCK.replace("(float[rows, 2] x)", "(float[rows, 2] x, float[2, 2] first__weight)"))

    assert apply(model, FoldNormAffine) == {"FoldNormAffine": 0}


def test_a_scale_far_from_one_is_conceded() -> None:
    model = model_from_text(BLOCK.replace("{2, -0.5}", "{1000, 1}"))
    apply(model, FoldNormAffine)

    (refusal,) = refusals_from_model(model)["FoldNormAffine"]
    assert refusal.conceded
    assert refusal.reason in CONCESSIONS


def test_all_layers_of_an_encoder_and_its_head(traced: Traced) -> None:
    network = traced("token-classification")
    graph = copied(network.graph)

    assert apply(graph, FoldNormAffine) == {"FoldNormAffine": 2 * 2}
    assert FoldNormAffine().expected(GraphTraits(layers=2)) == 2 * 2
    assert list(refused(graph, FoldNormAffine)) == ["embeddings.LayerNorm.LayerNormalization"]
    for module in residual_norms(graph):  # including the final one
        assert_array_equal(values_of(graph.graph.initializers[f"{module}.weight"]), np.ones(32))
        assert_array_equal(values_of(graph.graph.initializers[f"{module}.bias"]), np.zeros(32))
    assert 0 < distance(network, graph) < 1e-5


def test_what_is_folded_is_what_the_model_holds(traced: Traced) -> None:
    network = traced("token-classification")
    graph = applied(network.graph, FoldNormAffine)

    states = {name: tensor.double().numpy() for name, tensor in network.model.state_dict().items()}
    layer = "encoder.layer.1.intermediate"
    gamma, beta = (states[f"roberta_prelayernorm.{layer}.LayerNorm.{part}"] for part in ("weight", "bias"))
    weight, bias = (states[f"roberta_prelayernorm.{layer}.dense.{part}"] for part in ("weight", "bias"))
    found = {name: values_of(value) for name, value in graph.graph.initializers.items()}
    assert_allclose(found[f"{layer}.dense.weight.T"], (weight * gamma).T, rtol=1e-6)
    assert_allclose(found[f"{layer}.dense.bias"], bias + weight @ beta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ["with-past", "encoder"])
def test_both_sides_of_cross_attention(variant: str) -> None:
    network = translating(variant)
    graph = copied(network.graph)

    # The decoder has two layers and the encoder one, whose output cross-attention reads.
    layers, blocks, kept = (2, 3, 3) if variant == "with-past" else (1, 2, 2)
    assert apply(graph, FoldNormAffine) == {"FoldNormAffine": blocks * layers}
    assert FoldNormAffine().expected(GraphTraits(layers=layers, cross_attention=blocks == 3)) == blocks * layers
    assert len(refused(graph, FoldNormAffine)) == kept
    assert distance(network, graph) < 1e-5


def test_relative_positions_and_outputs_of_every_kind() -> None:
    network = trace_task(
        "fill-mask",
        inputs=("input_ids", "attention_mask"),
        outputs=("hidden_states", "attentions"),
        position_embedding_type="relative_key_query",
        tie_word_embeddings=False,
    )
    graph = copied(network.graph)

    assert apply(graph, FoldNormAffine) == {"FoldNormAffine": 2 * 2}
    # The LayerNorm before an untied head is folded.
    assert "lm_head.layer_norm.LayerNormalization" not in refused(graph, FoldNormAffine)
    assert distance(network, graph) < 1e-5
