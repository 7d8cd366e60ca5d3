"""In folded graphs, the passes of precision rescale as before, with the same tolerances."""

import json
from functools import cache, partial

import onnx_ir as ir
import pytest

from rpln_graphs.passes.fold_norm_affine import FoldNormAffine
from rpln_graphs.passes.fold_query_scale import FoldQueryScale
from rpln_graphs.passes.fold_token_types import FoldTokenTypes
from rpln_graphs.passes.lower_precision import KEPT_KEY
from rpln_graphs.passes.rescale_residual import SHIFT_KEY
from rpln_graphs.recipes import FP16_TOLERANCE, RECIPES, Rewrite, apply_recipe, apply_recipe_together
from rpln_graphs.rewriting.base import counts_from_model, refusals_from_model
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs import test_decoder_precision as decoders
from tests.graphs import test_precision as encoders
from tests.graphs.folded import apply
from tests.graphs.networks import copied

FOLDS = (FoldNormAffine, FoldQueryScale, FoldTokenTypes)
LAYERS = 4
"""The number of layers of the embedded checkpoint."""
CHANNELS = "stream in a few channels of one layer"
CHECKPOINTS = {"untouched": encoders.leave_as_it_is, **encoders.SPOILED}


# -- encoders --------------------------------------------------------------------------------------------------------


@cache
def folded(name: str) -> ir.Model:
    graph = encoders.graph_of(encoders.changed(CHECKPOINTS[name]))
    apply(graph, *FOLDS)
    return graph


@cache
def converted(name: str, recipe: str) -> ir.Model:
    graph = copied(folded(name))
    apply_recipe(graph, RECIPES[recipe], GraphTraits(layers=LAYERS), measure=encoders.ranges_of)
    return graph


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_fp16_is_within_tolerance(name: str) -> None:
    found = encoders.logits_of(converted(name, "fp16"))

    encoders.assert_accepted(RECIPES["fp16"].tolerance, found, encoders.eager_logits(CHECKPOINTS[name]))


@pytest.mark.parametrize("name", encoders.BF16)
def test_bf16_is_within_tolerance(name: str) -> None:
    found = encoders.logits_of(converted(name, "bf16"))

    encoders.assert_accepted(RECIPES["bf16"].tolerance, found, encoders.eager_logits(CHECKPOINTS[name]))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_all_is_folded_but_scales_that_a_stream_calls_for(name: str) -> None:
    counts = counts_from_model(folded(name))
    conceded = [refusal for refusal in refusals_from_model(folded(name))["FoldNormAffine"] if refusal.conceded]

    later = 2 * (LAYERS - encoders.LAYER - 1) if name == CHANNELS else 0
    assert [counts[fold.__name__] for fold in FOLDS] == [2 * LAYERS - later, LAYERS, 1]
    assert len(conceded) == (later + 1 if later else 0)  # and the final one


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_leaves_fp16_is_rescaled_as_without_folds(name: str) -> None:
    graph = converted(name, "fp16")
    counts = counts_from_model(graph)

    assert graph.metadata_props[SHIFT_KEY] == ("8" if name.startswith("stream") else "0")
    assert counts["RescaleResidual"] == ((2 + 4 * LAYERS) + (1 + 2 * LAYERS) if name.startswith("stream") else 0)
    assert counts["RescaleValues"] == (1 if name == "values" else 0)


def test_products_beyond_fp16_are_those_that_were_but_for_their_scale() -> None:
    kept = {name: json.loads(converted(name, "fp16").metadata_props[KEPT_KEY]) for name in CHECKPOINTS}
    path = encoders.PATH

    assert {name: set(nodes) for name, nodes in kept.items() if nodes} == {
        "activation": {f"{path}.intermediate.dense.MatMul", f"{path}.output.dense.MatMul"},
        "scores": {f"{path}.attention.self.MatMul"},
    }
    # Heads have 32 elements, and scores are scaled before the product.
    scores = kept["scores"][f"{path}.attention.self.MatMul"]
    assert scores == pytest.approx(encoders.SCORE / 32**0.5, rel=0.05)


# -- decoders --------------------------------------------------------------------------------------------------------


@cache
def converted_decoders(name: str) -> decoders.Graphs:
    graphs = decoders.graphs_of(name)
    for graph in graphs.values():
        apply(graph, *FOLDS)
    decoder = GraphTraits(layers=2, cross_attention=True)
    formulas = {"encoder": GraphTraits(layers=1), "prefill": decoder, "with-past": decoder}
    apply_recipe_together(
        [
            Rewrite(model=graph, traits=formulas[variant], measure=partial(decoders.measured, graphs, variant))
            for variant, graph in graphs.items()
        ],
        RECIPES["fp16"],
    )
    return graphs


@pytest.mark.parametrize("prompt", ["with-past", "prefill"])
@pytest.mark.parametrize("name", decoders.EVERY)
def test_decoders_are_within_tolerance_over_all_steps(name: str, prompt: str) -> None:
    assert 0 < decoders.difference(converted_decoders(name), name, prompt) <= FP16_TOLERANCE.difference


@pytest.mark.parametrize("name", decoders.EVERY)
def test_decoders_are_rescaled_as_without_folds(name: str) -> None:
    plain = decoders.converted(name, "fp16")
    for variant, graph in converted_decoders(name).items():
        counts, expected = counts_from_model(graph), counts_from_model(plain[variant])
        for kind in ("RescaleResidual", "RescaleValues"):
            assert counts[kind] == expected[kind], (variant, kind)
        assert decoders.cache_types(graph) == decoders.cache_types(plain[variant])
