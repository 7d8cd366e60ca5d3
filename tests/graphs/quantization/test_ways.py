"""A way is what its name says: ranges of the activations as they are, or equalized, and means for what is corrected."""

from dataclasses import replace

import numpy as np
import pytest

from rpln_graphs.forms import INT8_FORMS, write_form
from rpln_graphs.quantization.observe import Observed, observe
from rpln_graphs.quantization.products import PRODUCTS_OF_LAYER
from rpln_graphs.quantization.range_methods import RANGE_METHODS
from rpln_graphs.quantization.ways import PREPARATIONS, Calibration, Preparation, Way, calibration_from_observed
from rpln_graphs.recipes import FOLDS
from rpln_graphs.rewriting.base import counts_from_model
from tests.graphs.folded import applied
from tests.graphs.formulas import formulas_of
from tests.graphs.networks import trace_task
from tests.graphs.quantized import ATTENTION, names_to_round
from tests.graphs.text_graphs import run


def seen(*rows: tuple[float, float]) -> dict[str, Observed]:
    """Return what is seen of an activation of these tokens, of two channels each."""
    x = np.array(rows, dtype=np.float32)
    places = np.tile(np.arange(2), len(rows))
    squares = np.square(x).mean(axis=0)
    return {
        "x": Observed(
            lows=x.min(axis=0),
            highs=x.max(axis=0),
            means=x.mean(axis=0),
            squares=squares,
            tokens=len(rows),
            sample=x.reshape(-1),
            places=places,
        )
    }


SEEN, EQUALIZED = seen((-4.0, 1.0), (2.0, 3.0)), seen((-1.0, 1.0), (0.5, 3.0))
FACTORS = {"x": np.array([4.0, 1.0], dtype=np.float32)}


@pytest.mark.parametrize("preparation", PREPARATIONS, ids=lambda row: row.name or "plain")
def test_a_context_holds_what_the_preparation_needs(preparation: Preparation) -> None:
    calibration = Calibration(observed=SEEN, factors=FACTORS, equalized=EQUALIZED)
    way = Way(ranges=RANGE_METHODS["min-max"], preparation=preparation)
    context = calibration.context(way)
    low, high = (-1.0, 3.0) if preparation.equalizes else (-4.0, 3.0)

    assert way.name == ", ".join(filter(None, ("min-max", preparation.name)))
    assert context.quantizers["x"].scale == pytest.approx((high - low) / 255)
    assert context.factors == (FACTORS if preparation.equalizes else {})
    assert set(context.means) == ({"x"} if preparation.corrects else set())
    if preparation.corrects:
        np.testing.assert_allclose(context.means["x"], [-0.25, 2.0])


def test_a_form_is_equalized_corrected_and_rounded_at_once_but_for_blocks_that_are_kept() -> None:
    task = "token-classification"
    made = trace_task(task)
    folded = applied(made.graph, *FOLDS)
    observed = observe(folded, names_to_round(folded), [case.feeds for case in made.stress_cases()[::3]])
    way = Way(ranges=RANGE_METHODS["min-max"], preparation=PREPARATIONS[-1])
    context = replace(calibration_from_observed(folded, observed).context(way), kept=frozenset({ATTENTION}))
    graph = write_form(folded, INT8_FORMS["static"], formulas_of(made, task, "full"), context=context)

    layers, in_attention = made.config.num_hidden_layers, 4
    products = PRODUCTS_OF_LAYER * layers - in_attention
    assert counts_from_model(graph) == {
        "EqualizeChannels": 3 * layers,
        "CorrectBiases": products,
        "QuantizeProducts": products,
        "QuantizeAttention": 2 * (layers - 1),
        **counts_from_model(folded),
    }
    feeds = made.stress_cases()[0].feeds
    (expected,), (found,) = run(folded, feeds).values(), run(graph, feeds).values()
    assert 1e-6 < np.abs(found - expected).max() / np.abs(expected).max() < 0.05
