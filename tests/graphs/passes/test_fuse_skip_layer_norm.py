"""LayerNormalization(x + (block + bias)) -> SkipLayerNormalization(block, x, bias)."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose

from rpln_graphs.passes.fuse_skip_layer_norm import (
    LOWER_STASH_TYPE,
    MIXED_TYPES,
    OTHER_LENGTH,
    OTHER_RANK,
    OTHER_SHAPES,
    FuseSkipLayerNorm,
)
from rpln_graphs.rewriting.traits import RELATIVE_POSITIONS, TOKEN_TYPES, GraphTraits
from tests.graphs.fusions import applied, assert_computes_the_same, count, reasons
from tests.graphs.networks import trace_task
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run

WEIGHTS = "float[3] gamma = {0.9, 1.3, -0.4}, float[3] beta = {0.2, -0.1, 0.7}, float[3] bias = {0.3, -2, 1.1}"
RNG = np.random.default_rng(0)


def graph(
    nodes: str, *, inputs: str = "float[b, s, 3] x, float[b, s, 3] block", outputs: str = "float[b, s, 3] y"
) -> str:
    return f"g ({inputs}) => ({outputs}) <{WEIGHTS}> {{ {nodes} }}"


BIASED = graph(
    """
    biased = Add(block, bias)
    total = Add(x, biased)
    normed = LayerNormalization<axis = -1, epsilon = 0.01>(total, gamma, beta)
    y = Add(total, normed)
    """
)
REVERSED = BIASED.replace("Add(x, biased)", "Add(biased, x)")
LATE_BIAS = BIASED.replace("Add(block, bias)", "Add(block, x)").replace("Add(x, biased)", "Add(biased, bias)")
PLAIN = BIASED.replace("biased = Add(block, bias)", "").replace("biased", "block")
ONE_TEXT = BIASED.replace("float[b, s, 3] x", "float[1, s, 3] x")
SWAPPED = ONE_TEXT.replace("Add(x, biased)", "Add(biased, x)")
UNBIASED_ONE_TEXT = PLAIN.replace("float[b, s, 3] x", "float[1, s, 3] x")
UNBIASED_SWAPPED = UNBIASED_ONE_TEXT.replace("Add(x, block)", "Add(block, x)")


def feeds(*, texts: int = 2) -> Arrays:
    shapes = {"x": (texts, 5, 3), "block": (2, 5, 3)}
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        (BIASED, 2),
        (REVERSED, 2),
        (LATE_BIAS, 2),
        (PLAIN, 2),
        (ONE_TEXT, 1),
        (SWAPPED, 1),
        (UNBIASED_ONE_TEXT, 1),
        (UNBIASED_SWAPPED, 1),
    ],
)
def test_a_sum_and_its_norm_are_one_operator(text: str, texts: int) -> None:
    plain = model_from_text(text)
    model = applied(plain, FuseSkipLayerNorm)
    given = feeds(texts=texts)

    assert count(model, FuseSkipLayerNorm) == 1
    assert operators(model) == ["SkipLayerNormalization", "Add"]
    assert reasons(model, FuseSkipLayerNorm) == []
    assert_allclose(run(model, given)["y"], run(plain, given)["y"], rtol=0, atol=1e-6)


def test_values_keep_their_names_types_and_shapes() -> None:
    model = applied(model_from_text(BIASED), FuseSkipLayerNorm)
    fused = node_named(model, "normed")

    assert [value.name for value in fused.outputs] == ["normed", "", "", "total"]
    assert [value.name if value else None for value in fused.inputs] == ["block", "x", "gamma", "beta", "bias"]
    assert [value.dtype for value in fused.outputs] == [ir.DataType.FLOAT] * 4
    assert [[str(size) for size in value.shape or ()] for value in fused.outputs] == [
        ["b", "s", "3"],
        ["b", "s", "1"],
        ["b", "s", "1"],
        ["b", "s", "3"],
    ]
    assert fused.attributes["epsilon"].as_float() == pytest.approx(0.01)
    assert not fused.metadata_props


def test_a_sum_that_the_graph_gives_out_keeps_its_name() -> None:
    text = BIASED.replace("float[b, s, 3] y)", "float[b, s, 3] y, float[b, s, 3] total)")
    plain = model_from_text(text)
    model = applied(plain, FuseSkipLayerNorm)
    given = feeds()

    assert count(model, FuseSkipLayerNorm) == 1
    assert_allclose(run(model, given)["total"], run(plain, given)["total"], rtol=0, atol=1e-6)


def test_a_sum_is_computed_before_its_readers() -> None:
    model = applied(
        model_from_text(
            graph(
                """
                total = Add(x, block)
                other = Neg(total)
                normed = LayerNormalization<axis = -1>(total, gamma, beta)
                y = Add(other, normed)
                """
            )
        ),
        FuseSkipLayerNorm,
    )

    assert operators(model) == ["SkipLayerNormalization", "Neg", "Add"]


def test_a_sum_that_nobody_else_reads_is_not_given_out() -> None:
    model = applied(model_from_text(PLAIN.replace("Add(total, normed)", "Neg(normed)")), FuseSkipLayerNorm)

    assert [value.name for value in node_named(model, "normed").outputs] == ["normed"]


def test_a_sum_with_the_bias_that_others_read_stays() -> None:
    model = applied(model_from_text(BIASED.replace("Add(total, normed)", "Add(biased, normed)")), FuseSkipLayerNorm)

    assert operators(model) == ["Add", "SkipLayerNormalization", "Add"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PLAIN.replace("float", "double"), MIXED_TYPES),
        (PLAIN.replace("[b, s, 3]", "[s, 3]"), OTHER_RANK),
        (PLAIN.replace("[b, s, 3]", "[c, b, s, 3]"), OTHER_RANK),
        (
            PLAIN.replace("float[3] beta = {0.2, -0.1, 0.7}", "float[1] beta = {2}"),
            OTHER_LENGTH,
        ),
        (PLAIN.replace("axis = -1", "axis = -1, stash_type = 16"), LOWER_STASH_TYPE),
        (PLAIN.replace("float[b, s, 3] x", "float[c, s, 3] x"), OTHER_SHAPES),
        (PLAIN.replace("float[b, s, 3] x", "float[b, 1, 3] x"), OTHER_SHAPES),
        (PLAIN.replace("float[b, s, 3] x", "float[3] x"), OTHER_SHAPES),
        (PLAIN.replace("axis = -1", "axis = 1"), "Attribute axis mismatch: expected -1, got 1."),
    ],
)
def test_what_the_operator_cannot_do_is_refused(text: str, reason: str) -> None:
    plain = model_from_text(text)
    model = applied(plain, FuseSkipLayerNorm)

    assert count(model, FuseSkipLayerNorm) == 0
    assert reasons(model, FuseSkipLayerNorm) == [reason]
    assert operators(model) == operators(plain)


def test_a_norm_without_a_sum_is_no_refusal() -> None:
    model = applied(
        model_from_text(graph("y = LayerNormalization<axis = -1>(x, gamma, beta)", inputs="float[b, s, 3] x")),
        FuseSkipLayerNorm,
    )

    assert reasons(model, FuseSkipLayerNorm) == []


@pytest.mark.parametrize(
    ("inputs", "positions", "expected"),
    [
        (("inputs_embeds", "attention_mask"), "absolute", 3),
        (("input_ids", "attention_mask"), "relative_key", 2),
        (("input_ids", "attention_mask", "token_type_ids"), "relative_key", 3),
    ],
)
def test_embeddings_are_a_sum_unless_words_stand_alone(inputs: tuple[str, ...], positions: str, expected: int) -> None:
    network = trace_task("feature-extraction", inputs=inputs, num_hidden_layers=1, position_embedding_type=positions)
    model = applied(network.graph, FuseSkipLayerNorm)
    features = frozenset(
        name
        for name, present in (
            (RELATIVE_POSITIONS, positions == "relative_key"),
            (TOKEN_TYPES, "token_type_ids" in inputs),
        )
        if present
    )

    assert count(model, FuseSkipLayerNorm) == expected
    assert FuseSkipLayerNorm().expected(GraphTraits(layers=1, features=features)) == expected
    assert_computes_the_same(network, model)


def test_the_formula_knows_cross_attention() -> None:
    assert (
        FuseSkipLayerNorm().expected(GraphTraits(layers=0, cross_attention=True)) == 0
    )  # projections of a memory alone
    assert FuseSkipLayerNorm().expected(GraphTraits(layers=5)) == 11
    assert FuseSkipLayerNorm().expected(GraphTraits(layers=5, cross_attention=True)) == 16
