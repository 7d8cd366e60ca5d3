"""What pairs of runs tell about a speed, and when there are enough of them. Times and noise are made up."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from rpln_export.forms import timing
from rpln_export.forms.speeds import LEAST_ROUNDS, MOST_ROUNDS, REFERENCE, Speed, speed_from_ratios

RUNS = 200
"""How many measurements of a kind are made up."""


class Clock:
    """A clock that advances only when something works or sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def work(self, seconds: float, noise: Iterator[float]) -> Callable[[], None]:
        """Return a run that takes `seconds`, times what the noise says at that moment."""
        return lambda: self.sleep(seconds * next(noise))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def calm(rng: np.random.Generator) -> Iterator[float]:
    """Yield factors within a hundredth of 1."""
    return (1 + 0.01 * rng.standard_normal() for _ in itertools.count())


def heavy_tailed(rng: np.random.Generator) -> Iterator[float]:
    """Yield factors near 1, of which each tenth is much larger: another process had the core."""
    return (1 + 0.02 * abs(rng.standard_normal()) + (rng.random() < 0.1) * rng.pareto(1.5) for _ in itertools.count())


def drifting(rng: np.random.Generator) -> Iterator[float]:
    """Yield factors that grow steadily: the processor gets hot."""
    return ((1 + 0.002 * run) * (1 + 0.01 * rng.standard_normal()) for run in itertools.count())


def busy(rng: np.random.Generator) -> Iterator[float]:
    """Yield factors of which any may be several times as large as another."""
    return (math.exp(rng.standard_normal()) for _ in itertools.count())


def measured(clock: Clock, gain: float, noise: Callable[..., Iterator[float]], seed: int) -> Speed:
    """Return the measured speed of a contender that is `gain` times as fast as its reference, under this noise."""
    factors = noise(np.random.default_rng(seed))
    reference, contender = clock.work(1.0, factors), clock.work(1.0 / gain, factors)
    return timing.measure_speed([reference], [contender], seconds=1e9)


@pytest.mark.parametrize("noise", [calm, heavy_tailed, drifting, busy])
def test_of_equal_contenders_the_reference_keeps_its_place(clock: Clock, noise: Callable[..., Iterator[float]]) -> None:
    ahead = sum(measured(clock, 1.0, noise, seed).is_ahead_of(REFERENCE) for seed in range(RUNS))

    assert ahead <= RUNS / 100


@pytest.mark.parametrize("noise", [calm, heavy_tailed, drifting])
@pytest.mark.parametrize("gain", [1.1, 3.0])
def test_a_contender_that_is_a_tenth_ahead_takes_the_place(
    clock: Clock, noise: Callable[..., Iterator[float]], gain: float
) -> None:
    speeds = [measured(clock, gain, noise, seed) for seed in range(RUNS)]

    assert sum(speed.is_ahead_of(REFERENCE) for speed in speeds) >= 0.98 * RUNS
    assert sum(speed.low <= gain <= speed.high for speed in speeds) >= 0.95 * RUNS


def test_a_busy_machine_is_found_to_be_too_busy_to_tell(clock: Clock) -> None:
    speeds = [measured(clock, 1.1, busy, seed) for seed in range(RUNS)]

    assert sum(speed.is_unclear for speed in speeds) >= 0.8 * RUNS
    assert sum(speed.is_ahead_of(REFERENCE) for speed in speeds) <= 0.05 * RUNS


@pytest.mark.parametrize("noise", [calm, heavy_tailed, busy])
def test_a_slower_contender_never_takes_the_place(clock: Clock, noise: Callable[..., Iterator[float]]) -> None:
    assert not any(measured(clock, 0.8, noise, seed).is_ahead_of(REFERENCE) for seed in range(RUNS))


def test_without_noise_the_fewest_rounds_are_enough_and_pauses_do_not_count(clock: Clock) -> None:
    runs: list[str] = []

    def run(name: str, seconds: float) -> None:
        runs.append(name)
        clock.sleep(seconds)

    reference = [lambda: run("a", 1.0), lambda: run("b", 3.0)]
    contender = [lambda: run("A", 0.5), lambda: run("B", 1.5)]
    speed = timing.measure_speed(reference, contender, seconds=1e9, pause=10.0)

    assert (speed.median, speed.low, speed.high) == pytest.approx((2.0, 2.0, 2.0))
    # Each runs once without timing. Then the pairs change their order from round to round.
    assert "".join(runs) == "abAB" + "aAbB" + "AaBb" + "aAbB"
    assert LEAST_ROUNDS == 3


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, LEAST_ROUNDS), (1e9, MOST_ROUNDS)])
def test_rounds_end_when_time_is_up_or_more_would_not_help(clock: Clock, seconds: float, rounds: int) -> None:
    work = clock.work(1.0, busy(np.random.default_rng(0)))
    begun: list[float] = []

    def run() -> None:
        begun.append(clock.now)
        work()

    timing.measure_speed([run], [run], seconds=seconds)
    assert len(begun) == 2 + 2 * rounds


@pytest.mark.parametrize(
    ("count", "left_out"),
    # Ranks of Dixon and Mood's table of the sign test at 1%, which the interval inverts.
    [(8, 0), (11, 0), (12, 1), (20, 3), (30, 7), (60, 19)],
)
def test_the_interval_leaves_out_as_many_ratios_as_the_sign_test_rejects(count: int, left_out: int) -> None:
    speed = speed_from_ratios([float(value) for value in range(1, count + 1)])

    assert (speed.low, speed.high) == (left_out + 1, count - left_out)
    assert speed.median == (count + 1) / 2


def test_an_interval_of_few_rounds_is_wider_than_their_range() -> None:
    speed = speed_from_ratios([1.1, 1.0, 1.2])

    assert (speed.low, speed.median, speed.high) == pytest.approx((0.8, 1.1, 1.4))


@pytest.mark.parametrize(
    ("one", "other", "ahead"),
    [
        ((1.10, 1.06, 1.14), (1.0, 1.0, 1.0), True),
        ((1.15, 1.04, 1.33), (1.0, 1.0, 1.0), False),  # the interval is wider than the lead
        ((3.00, 2.60, 3.50), (1.0, 1.0, 1.0), True),
        ((1.10, 1.02, 1.20), (1.0, 1.0, 1.0), False),  # the interval holds less than the margin
        ((1.03, 1.03, 1.03), (1.0, 1.0, 1.0), False),
        ((1.20, 1.18, 1.22), (1.10, 1.05, 1.19), False),  # the intervals overlap
        ((1.20, 1.18, 1.22), (1.10, 1.09, 1.11), True),
        ((1.12, 1.12, 1.12), (1.10, 1.10, 1.10), False),
    ],
)
def test_a_place_is_taken_by_more_than_the_margin_and_both_intervals(
    one: tuple[float, float, float], other: tuple[float, float, float], ahead: bool
) -> None:
    speeds = [Speed(median=median, low=low, high=high) for median, low, high in (one, other)]
    assert speeds[0].is_ahead_of(speeds[1]) == ahead
