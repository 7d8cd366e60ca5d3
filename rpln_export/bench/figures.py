"""Figures: what the samples of rounds tell. No clock is read here."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from rpln_export.forms.speeds import LEAST_ROUNDS, MARGIN, Speed, places_around, speed_from_ratios

FASTER: Final = "faster"
SLOWER: Final = "slower"
EQUAL: Final = "as fast"
UNCLEAR: Final = "too noisy to tell"

QUANTILES: Final = (0.5, 0.9, 0.99)
"""The shares of runs that take at most as long as a percentile says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """A percentile of times in seconds, and the interval that the true percentile lies in with a chance of 99%.

    An end of the interval is None where the runs are too few for one.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """How long runs take: the median, and what 90% and 99% of them stay below, in seconds."""

    p50: Percentile
    p90: Percentile
    p99: Percentile


def percentiles(seconds: Sequence[float]) -> Percentiles:
    """Return the percentiles of one or more times, interpolated linearly between neighbours, with their intervals."""
    ordered = sorted(seconds)

    def percentile(quantile: float) -> Percentile:
        low, high = places_around(quantile, len(ordered))
        return Percentile(
            value=float(np.quantile(ordered, quantile)),
            low=None if low is None else ordered[low],
            high=None if high is None else ordered[high],
        )

    p50, p90, p99 = map(percentile, QUANTILES)
    return Percentiles(p50=p50, p90=p90, p99=p99)


def round_ratios(reference: Sequence[Sequence[float]], own: Sequence[Sequence[float]]) -> list[float]:
    """Return, for each round, how many times as fast the median run is as that of the reference."""
    return [statistics.median(one) / statistics.median(other) for one, other in zip(reference, own, strict=True)]


def speed_of_rounds(ratios: Sequence[float]) -> Speed | None:
    """Return the median of the ratios with its interval; None for fewer than LEAST_ROUNDS rounds."""
    return speed_from_ratios(ratios) if len(ratios) >= LEAST_ROUNDS else None


def verdict_on(ratios: Sequence[float], *, busy: bool) -> str:
    """Return whether a contender is faster than the reference, slower, or as fast, or that this cannot be told.

    It cannot where the machine is `busy` with other work, where the interval of the ratio reaches from slower to
    faster by more than MARGIN, and where the first half of the rounds says the opposite of the second.
    """
    speed = speed_of_rounds(ratios)
    if speed is None or busy:
        return UNCLEAR
    if speed.low >= 1 / MARGIN and speed.high <= MARGIN:
        return EQUAL
    half = len(ratios) // 2
    before, after = statistics.median(ratios[:half]), statistics.median(ratios[half:])
    if speed.low <= 1.0 <= speed.high or (before - 1.0) * (after - 1.0) < 0:
        return UNCLEAR
    return FASTER if speed.low > 1.0 else SLOWER
