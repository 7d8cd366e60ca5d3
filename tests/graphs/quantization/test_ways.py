"""A way is what its name says: ranges of the activations as they are, or equalized, and means for what is corrected."""

import numpy as np
import pytest

from rpln_graphs.quantization.observe import Observed
from rpln_graphs.quantization.range_methods import RANGE_METHODS
from rpln_graphs.quantization.ways import PREPARATIONS, Calibration, Preparation, Way


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
