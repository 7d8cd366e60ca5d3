"""What pairs of runs tell about a speed, and when there are enough of them. Times and noise are made up."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from rpln_export.forms import timing
from rpln_export.forms.speeds import (
    LEAST_ROUNDS,
    MOST_ROUNDS,
    REFERENCE,
    MeasuredSpeed,
    Speed,
    speed_from_ratios,
)

RUNS = 200
"""How many measurements of a kind are made up."""


class Clock:
    """The clocks of a process. They advance only when it works, waits or sleeps.

    Attributes:
        spinning: whether an idle thread keeps a processor busy while the process sleeps.
    """

    def __init__(self) -> None:
        self.now = self.busy = 0.0
        self.spinning = False

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.busy

    def sleep(self, seconds: float) -> None:
        self.pass_time(seconds, threads=int(self.spinning))

    def pass_time(self, seconds: float, *, threads: float = 1) -> None:
        """Let time pass while this many threads are on a processor."""
        self.now += seconds
        self.busy += seconds * threads

    def work(self, seconds: float, noise: Iterator[float]) -> Callable[[], None]:
        """Return a run that takes `seconds`, times what the noise says at that moment."""
        return lambda: self.pass_time(seconds * next(noise))

    def wait(self, seconds: float, waiting: Iterator[float]) -> Callable[[], None]:
        """Return a run that works for `seconds`, and waits for a processor as long as `waiting` says, times those."""

        def run() -> None:
            self.pass_time(seconds)
            self.pass_time(seconds * next(waiting), threads=0)

        return run


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
    return timing.measure_speed([reference], [contender], seconds=1e9).deciding


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
        clock.pass_time(seconds)

    reference = [lambda: run("a", 1.0), lambda: run("b", 3.0)]
    contender = [lambda: run("A", 0.5), lambda: run("B", 1.5)]
    speed = timing.measure_speed(reference, contender, seconds=1e9, pause=10.0)

    assert speed.processor == speed.elapsed
    assert (speed.elapsed.median, speed.elapsed.low, speed.elapsed.high) == pytest.approx((2.0, 2.0, 2.0))
    # Each runs once without timing. Then the pairs change their order from round to round.
    assert "".join(runs) == "abAB" + "aAbB" + "AaBb" + "aAbB"
    assert LEAST_ROUNDS == 3


def test_waiting_for_a_processor_does_not_count(clock: Clock) -> None:
    waiting = busy(np.random.default_rng(0))
    speed = timing.measure_speed([clock.wait(1.1, waiting)], [clock.wait(1.0, waiting)], seconds=1e9)

    assert speed.elapsed.high - speed.elapsed.low > 0.2
    assert speed.deciding.median == pytest.approx(1.1)
    assert speed.deciding.is_ahead_of(REFERENCE)


def test_a_gain_that_takes_more_processor_time_is_none(clock: Clock) -> None:
    speed = timing.measure_speed([lambda: clock.pass_time(1.3)], [lambda: clock.pass_time(1.0, threads=2)], seconds=1e9)

    assert speed.elapsed.median == pytest.approx(1.3)
    assert speed.deciding.median == pytest.approx(0.65)


def test_who_clearly_takes_longer_is_slower_with_less_processor_time_too(clock: Clock) -> None:
    speed = timing.measure_speed(
        [lambda: clock.pass_time(1.0, threads=2)], [lambda: clock.pass_time(1.25)], seconds=1e9
    )

    assert speed.processor.median == pytest.approx(1.6)
    assert speed.deciding.median == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("processor", "elapsed", "settled"),
    [
        ((1.10, 1.09, 1.11), (1.08, 1.00, 1.20), True),
        ((1.10, 1.09, 1.11), (0.95, 0.85, 1.05), False),  # it may take longer
        ((1.10, 1.09, 1.11), (0.70, 0.50, 0.90), False),  # it does, as far as a few rounds tell
        ((1.10, 1.09, 1.11), (0.95, 0.94, 0.96), True),  # it does
        ((0.80, 0.79, 0.81), (0.95, 0.85, 1.05), True),  # it loses in any case
        ((1.10, 1.00, 1.20), (1.10, 1.09, 1.11), False),
    ],
)
def test_a_gain_is_settled_when_elapsed_time_does_not_speak_against_it(
    processor: tuple[float, float, float], elapsed: tuple[float, float, float], settled: bool
) -> None:
    speeds = [Speed(median=median, low=low, high=high) for median, low, high in (processor, elapsed)]
    assert MeasuredSpeed(processor=speeds[0], elapsed=speeds[1]).is_settled == settled


def test_threads_that_spin_after_a_run_take_processor_time(clock: Clock) -> None:
    def run(*, spinning: bool) -> None:
        clock.spinning = spinning
        clock.pass_time(1.0)

    speed = timing.measure_speed([lambda: run(spinning=False)], [lambda: run(spinning=True)], seconds=1e9, pause=1.0)

    assert (speed.processor.median, speed.elapsed.median) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize(("on_cpu", "fine"), [(False, True), (True, False)])
def test_elapsed_time_decides_elsewhere_and_without_a_fine_clock(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, on_cpu: bool, fine: bool
) -> None:
    monkeypatch.setattr(timing, "HAS_FINE_CLOCK", fine)
    spinning_host = [lambda: clock.pass_time(1.0, threads=2)]
    speed = timing.measure_speed([lambda: clock.pass_time(1.3)], spinning_host, seconds=1e9, on_cpu=on_cpu)

    assert speed.processor == speed.elapsed
    assert speed.deciding.median == pytest.approx(1.3)


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
        ((1.15, 1.04, 1.33), (1.0, 1.0, 1.0), True),
        ((1.15, 1.04, 1.36), (1.0, 1.0, 1.0), False),  # half of the interval is wider than the lead
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
