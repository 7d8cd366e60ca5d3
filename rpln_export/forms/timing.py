"""Measures how much faster one way to run a graph is than another: both are run in turn, with pauses between the runs.

`rpln_export.forms.speeds` says what the times mean and how many rounds are needed.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from rpln_export.forms.speeds import LEAST_ROUNDS, MOST_ROUNDS, MeasuredSpeed, speed_from_ratios

PAUSE: Final = 0.005
"""Seconds after each run. Its idle threads may spin meanwhile: that is processor time of this run, not of the next."""
HAS_FINE_CLOCK: Final = os.name == "posix"
"""Whether the clock of processor time can time a run. On Windows it advances in steps of 16 ms."""

Run = Callable[[], object]


class Times(NamedTuple):
    """The seconds that something takes: those of all its threads on processors, and those that pass."""

    processor: float
    elapsed: float


def measure_speed(
    reference: Sequence[Run], contender: Sequence[Run], *, seconds: float, pause: float = PAUSE, on_cpu: bool = True
) -> MeasuredSpeed:
    """Return how many times as fast as `reference` a `contender` is.

    Both hold the same runs in the same order. Each is run once without timing. Then all are run in rounds until the
    speed is settled, there are MOST_ROUNDS of them, or `seconds` are over; at least LEAST_ROUNDS. A round gives the
    ratios of the sums of the times. Its pairs change their order from round to round, so that neither side always comes
    second. After each run there is a pause of `pause` seconds. Where the work is not done `on_cpu`, or where there is
    no fine clock of processor time, elapsed time is taken for it.
    """
    for run in (*reference, *contender):
        run()
    started = time.perf_counter()
    pairs = list(zip(reference, contender, strict=True))
    by_processor = on_cpu and HAS_FINE_CLOCK
    rounds: list[list[Times]] = []
    while True:
        rounds.append(_round(pairs, pause, by_processor=by_processor, turned=len(rounds) % 2 == 1))
        if len(rounds) < LEAST_ROUNDS:
            continue
        speed = MeasuredSpeed(
            processor=speed_from_ratios([one.processor / other.processor for one, other in rounds]),
            elapsed=speed_from_ratios([one.elapsed / other.elapsed for one, other in rounds]),
        )
        if speed.is_settled or len(rounds) == MOST_ROUNDS or time.perf_counter() - started >= seconds:
            return speed


def _round(pairs: Sequence[tuple[Run, Run]], pause: float, *, by_processor: bool, turned: bool) -> list[Times]:
    """Return the times of the first runs of all pairs and those of the second; `turned` runs the second first."""
    sums = [Times(0.0, 0.0), Times(0.0, 0.0)]
    for pair in pairs:
        for side in (1, 0) if turned else (0, 1):
            processor, elapsed = _times(pair[side], pause, by_processor=by_processor)
            sums[side] = Times(sums[side].processor + processor, sums[side].elapsed + elapsed)
    return sums


def _times(run: Run, pause: float, *, by_processor: bool) -> Times:
    busy, started = time.process_time(), time.perf_counter()
    run()
    elapsed = time.perf_counter() - started
    time.sleep(pause)
    return Times(time.process_time() - busy if by_processor else elapsed, elapsed)
