"""Observation: extremes, channels and a sample of activations are those that numpy finds in all batches together."""

from dataclasses import fields

import numpy as np
import pytest

from rpln_graphs.quantization.observe import SAMPLE, moments, observe
from tests.graphs.text_graphs import Arrays, model_from_text, operators

GRAPH = """
g (float[b, s, 6] x) => (float[b, s, 6] y) {
    doubled = Add(x, x)
    shifted = Neg(doubled)
    y = Relu(shifted)
}
"""
RNG = np.random.default_rng(3)
BATCHES: list[Arrays] = [
    {"x": (RNG.standard_normal(shape) * size).astype(np.float32)}
    for shape, size in (((1, 4, 6), 1.0), ((2, 900, 6), 10.0), ((1, 1, 6), 0.1))
]


@pytest.fixture(scope="module")
def values() -> list[np.ndarray]:
    return [-2 * batch["x"] for batch in BATCHES]


def test_extremes_and_channels_are_those_of_all_batches(values: list[np.ndarray]) -> None:
    seen = observe(model_from_text(GRAPH), ["shifted"], BATCHES)["shifted"]
    rows = np.concatenate([array.reshape(-1, 6) for array in values])

    assert (seen.low, seen.high) == (rows.min(), rows.max())
    np.testing.assert_array_equal(seen.channels, np.abs(rows).max(axis=0))
    np.testing.assert_array_equal([seen.lows, seen.highs], [rows.min(axis=0), rows.max(axis=0)])
    np.testing.assert_allclose(seen.means, rows.mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(seen.squares, np.square(rows, dtype=np.float64).mean(axis=0), rtol=1e-9)
    assert seen.tokens == len(rows)


def test_the_sample_is_spread_over_all_batches_and_channels(values: list[np.ndarray]) -> None:
    seen = observe(model_from_text(GRAPH), ["shifted"], BATCHES)["shifted"]
    flat = [array.ravel() for array in values]
    step = len(flat[1]) // SAMPLE | 1

    assert step > 1
    np.testing.assert_array_equal(seen.sample, np.concatenate([flat[0], flat[1][::step], flat[2]]))
    channels = [np.arange(array.size) % 6 for array in flat]
    np.testing.assert_array_equal(seen.places, np.concatenate([channels[0], channels[1][::step], channels[2]]))
    assert set(channels[1][::step]) == set(range(6))


def test_divided_channels_are_what_divided_values_would_have_shown() -> None:
    factors = np.array([1, 4, 0.5, 16, 1, 0.25], dtype=np.float32)
    seen = observe(model_from_text(GRAPH), ["shifted"], BATCHES)["shifted"].divided(factors)
    divided = observe(model_from_text(GRAPH), ["shifted"], [{"x": batch["x"] / factors} for batch in BATCHES])[
        "shifted"
    ]

    for field in fields(seen):
        np.testing.assert_allclose(getattr(seen, field.name), getattr(divided, field.name), rtol=1e-9)


def test_several_activations_are_told_apart_and_names_may_come_twice() -> None:
    model = model_from_text(GRAPH)
    seen = observe(model, ["shifted", "doubled", "shifted"], BATCHES)

    assert list(seen) == ["shifted", "doubled"]
    assert (seen["doubled"].low, seen["doubled"].high) == (-seen["shifted"].high, -seen["shifted"].low)
    assert operators(model) == ["Add", "Neg", "Relu"]
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_empty_batches_are_left_out_and_every_batch_is_reported() -> None:
    empty: Arrays = {"x": np.zeros((0, 3, 6), dtype=np.float32)}
    reported: list[None] = []

    assert observe(model_from_text(GRAPH), ["y"], [empty], advance=lambda: reported.append(None)) == {}
    seen = observe(model_from_text(GRAPH), ["y"], [empty, *BATCHES], advance=lambda: reported.append(None))
    assert seen["y"].low == 0
    assert len(reported) == 5


def test_moments_are_summed_over_the_rows_of_all_batches(values: list[np.ndarray]) -> None:
    rows = np.concatenate([array.reshape(-1, 6) for array in values])
    found = moments(model_from_text(GRAPH), ["shifted"], BATCHES)

    assert list(found) == ["shifted"]
    np.testing.assert_allclose(found["shifted"], rows.T @ rows, rtol=1e-4, atol=1e-3 * np.square(rows).sum() / 6)
