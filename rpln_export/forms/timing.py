"""Measures how much faster one way to run a graph is than another: both are run in turn, with pauses between the runs.

`rpln_export.forms.speeds` says what the times mean and how many rounds are needed.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from rpln_export.forms.speeds import LEAST_ROUNDS, MOST_ROUNDS, Speed, speed_from_ratios

PAUSE: Final = 0.005
"""Seconds before each run. Idle threads of the run before it may still spin and slow it down."""

Run = Callable[[], object]


def measure_speed(reference: Sequence[Run], contender: Sequence[Run], *, seconds: float, pause: float = PAUSE) -> Speed:
    """Return how many times as fast as `reference` a `contender` is.

    Both hold the same runs in the same order. Each is run once without timing. Then all are run in rounds until the
    speed is settled, there are MOST_ROUNDS of them, or `seconds` are over; at least LEAST_ROUNDS. A round gives one
    ratio, of the sums of the times. Its pairs change their order from round to round, so that neither side always
    comes second. Before each run there is a pause of `pause` seconds.
    """
    for run in (*reference, *contender):
        run()
    started = time.perf_counter()
    pairs = list(zip(reference, contender, strict=True))
    ratios: list[float] = []
    while True:
        ratios.append(_ratio(pairs, pause, turned=len(ratios) % 2 == 1))
        if len(ratios) < LEAST_ROUNDS:
            continue
        speed = speed_from_ratios(ratios)
        if speed.is_settled or len(ratios) == MOST_ROUNDS or time.perf_counter() - started >= seconds:
            return speed


def _ratio(pairs: Sequence[tuple[Run, Run]], pause: float, *, turned: bool) -> float:
    """Return the seconds of the first runs of all pairs over those of the second; `turned` runs the second first."""
    sides = (1, 0) if turned else (0, 1)
    sums = [0.0, 0.0]
    for pair in pairs:
        for side in sides:
            sums[side] += _timed(pair[side], pause)
    return sums[0] / sums[1]


def _timed(run: Run, pause: float) -> float:
    time.sleep(pause)
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
