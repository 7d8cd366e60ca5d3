"""RANGE_METHODS: one row per way to choose the range of an activation from what was observed of it.

A narrower range has finer steps, and clips what lies beyond it. Which of the two errors matters more depends on the
network: the export tries all rows and takes the one with the least error on texts that it held back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.quantization.observe import Observed
from rpln_graphs.quantization.quantizers import Array, Quantizer, quantizer_from_range

PERCENTILE: Final = 99.99
"""The share of values, in per cent, that the percentile method does not clip."""
SHARES: Final = tuple(np.linspace(1.0, 0.4, 25))
"""The parts of the whole range that the methods which search for the best one try."""
BINS: Final = 2048
"""The bins of the distribution that the entropy is computed of."""
SMOOTHING: Final = 1e-3
"""What is added to the count of each bin, so that none is empty."""
SEARCHED: Final = 2**15
"""The most values of a sample that a search looks at."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeMethod:
    """A way to choose a range: its name, and the function that returns the range of an observed activation."""

    name: str
    choose: Callable[[Observed], Range]


def whole_range(observed: Observed) -> Range:
    """Return the extremes: nothing that was seen is clipped."""
    return observed.low, observed.high


def percentile_range(observed: Observed) -> Range:
    """Return the range that all but the outermost values lie in, the same share of them on both sides."""
    outside = (100.0 - PERCENTILE) / 2
    low, high = np.percentile(observed.sample, [outside, 100.0 - outside])
    return float(low), float(high)


def least_squares_range(observed: Observed) -> Range:
    """Return the part of the whole range with the least mean square of the rounding and clipping errors."""
    sample = _thinned(observed.sample)

    def error(low: float, high: float) -> float:
        rounded = quantizer_from_range(low, high).rounded(sample)
        return float(np.square(rounded - sample, dtype=np.float64).mean())

    return min(_parts(observed), key=lambda part: error(*part))


def entropy_range(observed: Observed) -> Range:
    """Return the part of the whole range whose rounded values diverge least from the clipped ones (Kullback, Leibler).

    What is clipped is counted at the ends of the range, where the rounded values have nothing that stands for it. So a
    part costs what it clips, and gains finer steps (S. Migacz, 8-bit inference with TensorRT, GTC 2017).
    """
    edges = np.linspace(min(observed.low, 0.0), max(observed.high, 0.0), BINS + 1)
    if not edges[-1] > edges[0]:
        return whole_range(observed)
    centres = (edges[:-1] + edges[1:]) / 2
    counts = np.histogram(_thinned(observed.sample), edges)[0] + SMOOTHING

    def divergence(low: float, high: float) -> float:
        below, above = centres < min(low, 0.0), centres > max(high, 0.0)
        inside = ~(below | above)
        clipped = counts[inside]
        levels = np.rint(centres[inside] / quantizer_from_range(low, high).scale).astype(np.int64)
        levels -= levels.min()
        rounded = (np.bincount(levels, clipped) / np.maximum(np.bincount(levels), 1))[levels]
        clipped[0] += counts[below].sum()
        clipped[-1] += counts[above].sum()
        expected, found = clipped / clipped.sum(), rounded / rounded.sum()
        return float(np.sum(expected * np.log(expected / found)))

    return min(_parts(observed), key=lambda part: divergence(*part))


def _parts(observed: Observed) -> list[Range]:
    """Return the ranges that are tried: the whole one, and parts of it."""
    return [(observed.low * share, observed.high * share) for share in SHARES]


def _thinned(sample: Array) -> Array:
    return sample[:: max(1, sample.size // SEARCHED) | 1]


RANGE_METHODS: Final = {
    row.name: row
    for row in (
        RangeMethod(name="min-max", choose=whole_range),
        RangeMethod(name="percentile", choose=percentile_range),
        RangeMethod(name="mse", choose=least_squares_range),
        RangeMethod(name="entropy", choose=entropy_range),
    )
}


def quantizers_from_observed(
    observed: Mapping[str, Observed], method: RangeMethod, *, dtype: ir.DataType = ir.DataType.UINT8
) -> dict[str, Quantizer]:
    """Return a quantizer for each observed activation, whose range `method` chooses."""
    return {name: quantizer_from_range(*method.choose(seen), dtype) for name, seen in observed.items()}
