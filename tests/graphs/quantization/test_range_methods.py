"""RANGE_METHODS: what each way to choose a range keeps and clips, on distributions that were made for it."""

import numpy as np
import pytest

from rpln_graphs.quantization.observe import Observed
from rpln_graphs.quantization.quantizers import Array, quantizer_from_range
from rpln_graphs.quantization.range_methods import RANGE_METHODS, SHARES, RangeMethod, quantizers_from_observed

RNG = np.random.default_rng(11)
NORMAL = RNG.standard_normal(20000).astype(np.float32)
OUTLIER = np.append(NORMAL, np.float32(40.0))
LONG_TAIL = (RNG.laplace(size=20000) ** 3).astype(np.float32)
EVERY_METHOD = pytest.mark.parametrize("method", RANGE_METHODS.values(), ids=RANGE_METHODS)


def seen(values: Array) -> Observed:
    """Return what is seen of an activation with one channel."""
    low, high, mean, square = (np.array([number]) for number in (values.min(), values.max(), values.mean(), 0.0))
    places = np.zeros(len(values), dtype=np.int64)
    return Observed(lows=low, highs=high, means=mean, squares=square, tokens=len(values), sample=values, places=places)


def chosen(name: str, values: Array) -> tuple[float, float]:
    return RANGE_METHODS[name].choose(seen(values))


def mean_square(values: Array, low: float, high: float) -> float:
    return float(np.square(quantizer_from_range(low, high).rounded(values) - values, dtype=np.float64).mean())


def test_min_max_keeps_the_extremes() -> None:
    assert chosen("min-max", OUTLIER) == (OUTLIER.min(), 40.0)


def test_a_percentile_cuts_an_outlier_and_keeps_the_rest() -> None:
    low, high = chosen("percentile", OUTLIER)

    assert NORMAL.min() <= low < -3
    assert 3 < high <= NORMAL.max()


def test_the_least_squares_are_the_least_of_all_that_are_tried() -> None:
    for values in (NORMAL, OUTLIER, LONG_TAIL):
        found = mean_square(values, *chosen("mse", values))
        tried = [mean_square(values, values.min() * share, values.max() * share) for share in SHARES]
        assert found == min(tried)
    assert chosen("mse", NORMAL * 0 + np.linspace(-1, 1, len(NORMAL), dtype=np.float32)) == (-1, 1)


def test_entropy_clips_a_long_tail_more_than_a_flat_distribution() -> None:
    flat = np.linspace(-1, 1, 20000, dtype=np.float32)
    distributions = {"tail": LONG_TAIL, "flat": flat}
    shares = {name: chosen("entropy", values)[1] / values.max() for name, values in distributions.items()}

    assert shares["flat"] == pytest.approx(1.0)
    assert shares["tail"] < 0.7


def test_entropy_is_not_misled_by_values_that_are_far_from_zero() -> None:
    """Nothing lies between 0 and the smallest value, so that nothing is gained by fewer steps there."""
    far = np.linspace(2, 3, 20000, dtype=np.float32)

    assert chosen("entropy", far) == (2, 3)


DEGENERATE = {
    "zero": np.zeros(100, dtype=np.float32),
    "one value": np.full(100, 2.5, dtype=np.float32),
    "a single number": np.array([-7.0], dtype=np.float32),
    "all positive": np.linspace(1, 3, 500, dtype=np.float32),
    "all negative": -np.linspace(1, 3, 500, dtype=np.float32),
}


@EVERY_METHOD
@pytest.mark.parametrize("name", DEGENERATE)
def test_odd_distributions_have_a_range_that_serves(method: RangeMethod, name: str) -> None:
    values = DEGENERATE[name]
    low, high = method.choose(seen(values))
    quantizer = quantizers_from_observed({"x": seen(values)}, method)["x"]

    assert min(values.min(), 0) <= low <= high <= max(values.max(), 0)
    assert quantizer == quantizer_from_range(low, high)
    # 0 is exact, and the rest is off by no more than clipping a little and rounding cost.
    assert np.abs(quantizer.rounded(values) - values).max() <= 0.05 * np.abs(values).max()
