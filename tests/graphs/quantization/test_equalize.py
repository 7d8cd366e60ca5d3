"""The error that 8 bits are expected to make is the one that they make, and factors make it smaller."""

import numpy as np
import pytest

from rpln_graphs.quantization.equalize import expected_error, factors_from_observed
from rpln_graphs.quantization.observe import Observed, observe
from rpln_graphs.quantization.quantizers import Array, quantizer_from_range
from tests.graphs.text_graphs import model_from_text

RNG = np.random.default_rng(8)
SIZE, WIDTH = 24, 40
OUTLYING = [2, 11]
WEIGHT = RNG.standard_normal((SIZE, WIDTH)).astype(np.float32)
NORMED = f"""
g (float[b, s, {SIZE}] x) => (float[b, s, {WIDTH}] y)
<float[{SIZE}] gamma = {{{", ".join(["1"] * SIZE)}}},
 float[{SIZE}, {WIDTH}] encoder__layer__0__intermediate__weight = {{{", ".join(map(repr, WEIGHT.ravel().tolist()))}}},
 float[{WIDTH}] bias = {{{", ".join(["0"] * WIDTH)}}}>
{{
    normed = LayerNormalization(x, gamma)
    product = MatMul(normed, encoder__layer__0__intermediate__weight)
    y = Add(product, bias)
}}
"""


def normed(factor: float) -> Array:
    """Return values behind a LayerNorm, with outlying channels."""
    x = RNG.standard_normal((4000, SIZE)) + RNG.standard_normal(SIZE) / 2
    x[:, OUTLYING] *= factor
    x -= x.mean(axis=1, keepdims=True)
    return np.asarray(x / x.std(axis=1, keepdims=True), dtype=np.float32)


def seen_of(x: Array) -> Observed:
    model = model_from_text(NORMED)
    return observe(model, ["normed"], [{"x": x[np.newaxis]}])["normed"]


def made_error(x: Array, weight: Array) -> float:
    """Return the square of the error that rounding makes on average, apart from the mean error of each column."""
    rounded = quantizer_from_range(float(x.min()), float(x.max())).rounded(x).astype(np.float64)
    steps = np.abs(weight).max(axis=0) / 127
    errors = rounded @ (np.rint(weight / steps) * steps) - x.astype(np.float64) @ weight
    return float(errors.var(axis=0).sum())


@pytest.mark.parametrize("factor", [1.0, 20.0, 300.0])
def test_the_expected_error_is_made(factor: float) -> None:
    x = normed(factor)

    assert expected_error(WEIGHT, seen_of(x)) == pytest.approx(made_error(x, WEIGHT), rel=0.15)


@pytest.mark.parametrize("factor", [20.0, 300.0])
def test_factors_make_the_error_smaller(factor: float) -> None:
    x = normed(factor)
    factors = factors_from_observed(model_from_text(NORMED), {"normed": seen_of(x)})["normed"]
    least = made_error(x / factors, WEIGHT * factors[:, np.newaxis])

    assert least < made_error(x, WEIGHT) / 2
    # Powers of two change no bit.
    assert (np.exp2(np.round(np.log2(factors))) == factors).all()
    assert factors[OUTLYING].min() > np.delete(factors, OUTLYING).max()
