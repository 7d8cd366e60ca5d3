"""The ways in which a static form is tried: each preparation, and then the other ranges with the best of these."""

import pytest

from rpln_export.quantization.fidelity import Fidelity
from rpln_export.quantization.quantize import _ways
from rpln_graphs.forms import INT8_FORMS, STATIC_SYMMETRIC, WEIGHTS_4
from rpln_graphs.quantization.ways import Calibration

CALIBRATION = Calibration(observed={}, factors={}, equalized={})
PREPARED = ["min-max", "min-max, equalized", "min-max, equalized and corrected"]


@pytest.mark.parametrize("best", PREPARED)
def test_ranges_are_tried_with_the_best_preparation(best: str) -> None:
    tried: dict[str, Fidelity] = {}
    for name, _ in _ways(INT8_FORMS["static"], CALIBRATION, {}, tried):
        tried[name] = Fidelity(rms=0.1 if name == best else 0.2, largest=0.5, decisions=0, agreeing=0)

    others = [best.replace("min-max", ranges) for ranges in ("percentile", "mse", "entropy")]
    assert list(tried) == PREPARED + others


def test_forms_without_preparations_have_fewer_ways() -> None:
    tried: dict[str, Fidelity] = {}
    (symmetric,), (weights, _) = STATIC_SYMMETRIC.values(), WEIGHTS_4.values()
    for name, _context in _ways(symmetric, CALIBRATION, {}, tried):
        tried[name] = Fidelity(rms=0.1, largest=0.5, decisions=0, agreeing=0)

    assert list(tried) == ["min-max", "percentile", "mse", "entropy"]
    assert [name for name, _ in _ways(weights, None, {}, {})] == ["nearest", "error-aware"]
    assert [name for name, _ in _ways(INT8_FORMS["dynamic"], CALIBRATION, {}, {})] == [""]
