"""Traced graphs of every task in ONNX Runtime's fused operators: counts by hand, the same outputs as before."""

from typing import Any

import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.emulate import rounding_copy
from rpln_graphs.passes.fuse_bias_gelu import FuseBiasGelu
from rpln_graphs.passes.fuse_fast_gelu import FuseFastGelu
from rpln_graphs.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from rpln_graphs.passes.fuse_skip_layer_norm import FuseSkipLayerNorm
from rpln_graphs.recipes import FOLDS, RECIPES, apply_recipe
from rpln_graphs.rewriting.base import CountingPass
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.fusions import (
    GRAPHS,
    applied,
    assert_close,
    assert_computes_the_same,
    count,
    every_mask,
    reasons,
    traced,
)
from tests.graphs.networks import copied, trace_task
from tests.graphs.text_graphs import operators, runner

FUSIONS: tuple[type[CountingPass], ...] = (FuseMultiHeadAttention, FuseSkipLayerNorm, FuseBiasGelu, FuseFastGelu)
TOKEN_HEADS = {"fill-mask", "text-generation", "text2text-generation"}
"""Tasks whose head predicts tokens and has a gelu of its own."""


def expected_counts(task: str, variant: str, layers: int) -> dict[str, int]:
    """Return the counts, written by hand, for a network whose activation is gelu."""
    if variant == "encoder":  # the tiny encoder of an encoder-decoder has one layer, and no head
        return {"MultiHeadAttention": 1, "SkipLayerNormalization": 3, "BiasGelu": 1, "FastGelu": 0}
    gelus = layers + (1 if task in TOKEN_HEADS else 0)
    if task == "text2text-generation":
        skips, attentions = 3 * layers + 1, 2 * layers
    else:
        skips, attentions = 2 * layers + 1, layers
    return {"MultiHeadAttention": attentions, "SkipLayerNormalization": skips, "BiasGelu": gelus, "FastGelu": 0}


def counted(graph: ir.Model) -> dict[str, int]:
    """Return the fused operators in the graph, after a check that the passes counted the same."""
    found = {kind.__name__.removeprefix("Fuse"): count(graph, kind) for kind in FUSIONS}
    found["SkipLayerNormalization"] = found.pop("SkipLayerNorm")
    assert found == {name: operators(graph).count(name) for name in found}
    return found


@pytest.mark.parametrize("folds", [(), FOLDS], ids=["as traced", "folded"])
@pytest.mark.parametrize(("task", "variant"), GRAPHS)
def test_everything_is_fused(task: str, variant: str, folds: tuple[type[CountingPass], ...]) -> None:
    network = traced(task, variant)
    graph = applied(network.graph, *folds, *FUSIONS)

    assert counted(graph) == expected_counts(task, variant, layers=2)
    assert {kind.__name__: reasons(graph, kind) for kind in FUSIONS if reasons(graph, kind)} == {}
    assert not {"Softmax", "Erf", "Gelu"}.intersection(operators(graph))
    assert all(value.dtype is not None and value.shape is not None for node in graph.graph for value in node.outputs)
    assert_computes_the_same(network, graph)


@pytest.mark.parametrize("recipe", ["fp16", "bf16"])
@pytest.mark.parametrize(("task", "variant"), [("token-classification", "full"), ("text2text-generation", "with-past")])
def test_lower_types_are_fused_and_round_as_before(task: str, variant: str, recipe: str) -> None:
    network = traced(task, variant)
    lowered = copied(network.graph)
    cases = every_mask(network.stress_cases())
    batches = [case.feeds for case in network.stress_cases()]
    formulas = GraphTraits(layers=2, cross_attention=task == "text2text-generation")
    apply_recipe(lowered, RECIPES[recipe], formulas, measure=lambda model: measure_ranges(model, batches))
    graph = applied(lowered, *FUSIONS)

    assert counted(graph) == expected_counts(task, variant, layers=2)
    plain, fused, before = runner(network.graph), runner(rounding_copy(graph)), runner(rounding_copy(lowered))
    resolution = RECIPES[recipe].tolerance.resolution
    for case in cases:
        expected = plain(case.feeds)
        # The fused graph is as near to fp32 as the other, which rounds more often. Their outputs have other names.
        for compute in (before, fused):
            found = dict(zip(expected, compute(case.feeds).values(), strict=True))
            assert_close(found, expected, tolerance=16 * resolution, case=case)


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a task, one of its graphs, and fields of a config."""
    heads = draw(st.integers(1, 4))
    name, variant = draw(st.sampled_from(GRAPHS))
    return {
        "name": name,
        "variant": variant,
        "opset": draw(st.integers(18, 23)),
        "seed": draw(st.integers(0, 99)),
        "outputs": draw(st.sampled_from([(), ("hidden_states",), ("attentions",)])) if variant != "encoder" else (),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.sampled_from([4, 6, 16])),
        "hidden_act": draw(st.sampled_from(["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])),
        "type_vocab_size": draw(st.integers(1, 3)),
        "tie_word_embeddings": draw(st.booleans()),
    }


def check(fields: dict[str, Any], folds: tuple[type[CountingPass], ...]) -> None:
    network = trace_task(**fields)
    graph = applied(network.graph, *folds, *FUSIONS)
    layers, activation = fields["num_hidden_layers"], fields["hidden_act"]
    expected = expected_counts(fields["name"], fields["variant"], layers)
    if fields["variant"] != "encoder":
        expected["BiasGelu"] -= 0 if activation == "gelu" else layers
        expected["FastGelu"] += layers if activation in {"gelu_new", "gelu_pytorch_tanh"} else 0
        expected["MultiHeadAttention"] -= layers if "attentions" in fields["outputs"] else 0

    assert counted(graph) == expected
    assert_computes_the_same(network, graph)


SECONDS_EACH = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@pytest.mark.full
@settings(SECONDS_EACH, max_examples=5, derandomize=True)
@given(networks(), st.sampled_from([(), FOLDS]))
def test_a_few_networks(fields: dict[str, Any], folds: tuple[type[CountingPass], ...]) -> None:
    check(fields, folds)


@pytest.mark.fuzz
@settings(SECONDS_EACH, max_examples=15)
@given(networks(), st.sampled_from([(), FOLDS]))
def test_many_networks(fields: dict[str, Any], folds: tuple[type[CountingPass], ...]) -> None:
    check(fields, folds)
