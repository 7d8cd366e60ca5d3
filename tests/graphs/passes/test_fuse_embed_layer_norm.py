"""SkipLayerNormalization(words[ids], positions[places]) -> EmbedLayerNormalization(ids, words, positions, places)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rpln_graphs.passes.fold_token_types import FoldTokenTypes
from rpln_graphs.passes.fuse_embed_layer_norm import BIAS, OTHER_IDS, FuseEmbedLayerNorm
from rpln_graphs.passes.fuse_skip_layer_norm import FuseSkipLayerNorm
from rpln_graphs.rewriting.base import LOWER_STATISTICS
from rpln_graphs.rewriting.traits import INPUTS_EMBEDS, RELATIVE_POSITIONS, GraphTraits
from tests.graphs.fusions import applied, assert_computes_the_same, count, optimized_runner, reasons
from tests.graphs.networks import trace_task
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run

TABLES = """
    float[4, 2] words = {0.1, 0.2, -0.7, 0.9, 1.3, -0.4, 2.1, 0.6},
    float[3, 2] positions = {0.5, -0.3, 0.8, 1.9, -1.1, 0.4},
    float[2, 2] types = {0.7, 0.1, -0.2, 1.6},
    float[2] gamma = {0.9, -1.2}, float[2] beta = {0.3, 0.1}, float[2] bias = {0.4, -0.6}
"""
NORM = "y = LayerNormalization<axis = -1, epsilon = 0.01>(total, gamma, beta)"
PLAIN = f"""
g (int64[b, s] ids, int64[b, s] places) => (float[b, s, 2] y) <{TABLES}> {{
    word = Gather<axis = 0>(words, ids) position = Gather<axis = 0>(positions, places)
    total = Add(word, position) {NORM}
}}
"""
TYPED = PLAIN.replace("int64[b, s] ids", "int64[b, s] ids, int64[b, s] kinds").replace(
    "total = Add(word, position)",
    "kind = Gather<axis = 0>(types, kinds) typed = Add(word, kind) total = Add(typed, position)",
)
BIASED = PLAIN.replace("total = Add(word, position)", "typed = Add(word, bias) total = Add(typed, position)")
FEEDS: Arrays = {"ids": np.array([[3, 0, 1], [2, 2, 0]]), "places": np.array([[0, 2, 1], [1, 1, 0]])}
KINDS: Arrays = {"kinds": np.array([[0, 1, 1], [1, 0, 0]])}


@pytest.mark.parametrize(
    ("text", "feeds"),
    [(PLAIN, FEEDS), (PLAIN.replace("Add(word, position)", "Add(position, word)"), FEEDS), (TYPED, FEEDS | KINDS)],
)
def test_embeddings_are_one_operator(text: str, feeds: Arrays) -> None:
    plain = model_from_text(text)
    model = applied(plain, FuseSkipLayerNorm, FuseEmbedLayerNorm)

    assert count(model, FuseEmbedLayerNorm) == 1
    assert reasons(model, FuseEmbedLayerNorm) == []
    assert operators(model) == ["Cast"] * len(feeds) + ["EmbedLayerNormalization"]
    assert node_named(model, "y").attributes["epsilon"].as_float() == pytest.approx(0.01)
    for found in (run(model, feeds), optimized_runner(model)(feeds)):
        assert_allclose(found["y"], run(plain, feeds)["y"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PLAIN.replace("float", "float16").replace(f"<{TABLES.replace('float', 'float16')}>", ""), LOWER_STATISTICS),
        (
            PLAIN.replace("int64[b, s] places", "int64[1, s] places"),
            OTHER_IDS,
        ),
        (BIASED, BIAS),
        (
            PLAIN.replace("float[b, s, 2] y)", "float[b, s, 2] y, float[b, s, 2] total)"),
            "Matched nodes have other uses preventing replacement.",
        ),
        (
            PLAIN.replace("Gather<axis = 0>(positions, places)", "Neg(other)").replace(
                "int64[b, s] places", "float[b, s, 2] other"
            ),
            "OpType mismatch: expected Gather, got Neg.",
        ),
    ],
)
def test_what_the_operator_cannot_do_is_refused(text: str, reason: str) -> None:
    if reason == LOWER_STATISTICS:  # constants of the syntax are integers in fp16
        tables = "float16[4, 2] words, float16[3, 2] positions, float16[2] gamma, float16[2] beta"
        text = text.replace("int64[b, s] ids", f"int64[b, s] ids, {tables}")
    model = applied(model_from_text(text), FuseSkipLayerNorm, FuseEmbedLayerNorm)

    assert count(model, FuseSkipLayerNorm) == 1
    assert count(model, FuseEmbedLayerNorm) == 0
    assert reasons(model, FuseEmbedLayerNorm) == [reason]
    assert operators(model).count("SkipLayerNormalization") == 1


@pytest.mark.parametrize("inputs", [("input_ids", "attention_mask"), ("input_ids", "attention_mask", "token_type_ids")])
def test_positions_that_skip_padding_are_exact(inputs: tuple[str, ...]) -> None:
    network = trace_task("token-classification", inputs=inputs, num_hidden_layers=1)
    model = applied(network.graph, FoldTokenTypes, FuseSkipLayerNorm, FuseEmbedLayerNorm)

    assert count(model, FuseEmbedLayerNorm) == 1
    assert operators(model).count("SkipLayerNormalization") == 2
    assert_computes_the_same(network, model)


@pytest.mark.parametrize(("features", "expected"), [(set(), 1), ({INPUTS_EMBEDS}, 0), ({RELATIVE_POSITIONS}, 0)])
def test_the_formula_knows_what_there_is_to_look_up(features: set[str], expected: int) -> None:
    assert FuseEmbedLayerNorm().expected(GraphTraits(layers=7, features=frozenset(features))) == expected
    assert FuseEmbedLayerNorm().expected(GraphTraits(layers=0)) == 0
