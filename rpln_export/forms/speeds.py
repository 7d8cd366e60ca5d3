"""How many times as fast one way to run a graph is as another, as far as pairs of runs tell. It reads no clock.

Each round runs both ways one right after the other, so that what slows the machine down slows down both. The ratio of
their times is what counts: its median over the rounds, and the interval that the true median lies in.

Processor time decides, for it hardly depends on what else runs on the machine. Elapsed time does: threads that divide
the work evenly and wait for each other are fast while each has a core to itself, and slow as soon as one has not, be it
because of another process or of another request to the same server.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MARGIN: Final = 1.03
"""The least speed, relative to another, that is worth another form or other settings."""
CONFIDENCE: Final = 0.99
"""How sure an interval is. It is looked at after every round, so that 95% would be too little."""
LEAST_ROUNDS: Final = 3
"""The fewest rounds that say anything about the noise."""
MOST_ROUNDS: Final = 120
"""The rounds after which a machine counts as too busy to tell: more would narrow the interval only slowly."""
NARROW: Final = 0.03
"""The width of an interval, relative to its median, at which no more rounds are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How many times as fast a contender is as the reference: the median of the ratios, and its interval."""

    median: float
    low: float
    high: float

    def is_ahead_of(self, other: "Speed") -> bool:
        """Return whether this contender takes the place of another, both relative to the same reference.

        Its interval has to lie beyond the other's and beyond MARGIN, and its lead has to be more than half of its
        interval's width: on a busy machine, slow phases may come several rounds in a row, and then an interval is too
        narrow.
        """
        beyond = self.low > max(MARGIN * other.median, other.high)
        return beyond and self.median - other.median > (self.high - self.low) / 2

    def may_be_ahead_of(self, other: "Speed") -> bool:
        """Return whether this contender may be ahead of another for all that was measured, though it is not shown."""
        tells = self.is_narrow and other.is_narrow
        return not tells and self.high > MARGIN * other.median and not self.is_ahead_of(other)

    @property
    def is_settled(self) -> bool:
        """Whether more rounds are unlikely to change what is decided."""
        return self.high <= MARGIN or self.is_narrow

    @property
    def is_narrow(self) -> bool:
        """Whether the interval is so narrow that no more rounds are needed."""
        return self.high - self.low <= NARROW * self.median

    @property
    def is_unclear(self) -> bool:
        """Whether the contender may be ahead of the reference or not, which more rounds, or a calmer machine, tell."""
        return not self.is_settled and not self.is_ahead_of(REFERENCE)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


REFERENCE: Final = Speed(median=1.0, low=1.0, high=1.0)
"""The speed of the reference itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSpeed:
    """How many times as fast a contender is as the reference, by processor time and by elapsed time."""

    processor: Speed
    elapsed: Speed

    @property
    def deciding(self) -> Speed:
        """The speed by processor time, or by elapsed time if the contender clearly takes longer than the reference."""
        return self.elapsed if self.elapsed.high < REFERENCE.low else self.processor

    @property
    def is_settled(self) -> bool:
        """Whether more rounds are unlikely to change what is decided, be it by showing whether a gain takes longer."""
        told = self.elapsed.low >= REFERENCE.low or self.elapsed.is_narrow
        return self.processor.is_settled and (told or not self.processor.is_ahead_of(REFERENCE))


def speed_from_ratios(ratios: Sequence[float]) -> Speed:
    """Return the speed that these ratios, one for each of at least LEAST_ROUNDS rounds, tell.

    From 8 rounds on, the interval's ends are order statistics. It holds the true median with a probability of at least
    CONFIDENCE whatever the noise is like, since the number of ratios below the true median is binomial (W. R. Thompson,
    Annals of Mathematical Statistics 7, 1936). For fewer rounds it is the range, widened by its own width on both
    sides: for normal noise that is 95% with 3 rounds, and more than 99% with 4 (E. Lord, Biometrika 34, 1947).
    """
    assert len(ratios) >= LEAST_ROUNDS
    ordered = sorted(ratios)
    low_place, high_place = places_around(0.5, len(ordered))
    if low_place is None or high_place is None:
        width = ordered[-1] - ordered[0]
        low, high = ordered[0] - width, ordered[-1] + width
    else:
        low, high = ordered[low_place], ordered[high_place]
    return Speed(median=statistics.median(ordered), low=max(low, 0.0), high=high)


def places_around(quantile: float, count: int) -> tuple[int | None, int | None]:
    """Return the places, among `count` sorted values, of the ends of the interval that holds the true `quantile`.

    It is CONFIDENCE for both ends together, and half of the rest for each. An end is None where the values are too few
    for one. The number of values below the quantile is binomial, whatever the values are like.
    """
    return _values_outside(quantile, count), _mirrored(_values_outside(1 - quantile, count), count)


def _values_outside(quantile: float, count: int) -> int | None:
    """Return how many of the smallest of `count` values may lie below the interval of the quantile."""
    left_out, beyond = None, 0.0
    for number in range(count):
        chance = math.log(quantile) * number + math.log(1 - quantile) * (count - number)
        beyond += math.exp(chance + math.lgamma(count + 1) - math.lgamma(number + 1) - math.lgamma(count - number + 1))
        if beyond > (1 - CONFIDENCE) / 2:
            break
        left_out = number
    return left_out


def _mirrored(place: int | None, count: int) -> int | None:
    return None if place is None else count - 1 - place
