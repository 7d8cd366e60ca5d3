"""How much faster one way to run a graph is than another: both are run in turn, with pauses between the runs."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

ROUNDS: Final = 5
"""The most rounds that are made."""
PAUSE: Final = 0.005
"""Seconds before each run. Idle threads of the run before it may still spin and slow it down."""
NOISE: Final = 0.05
"""The share of a speed that is noise: of two ways that differ by no more, neither counts as faster."""
GIVE_UP_BELOW: Final = 0.7
"""The speed, relative to the reference, below which a candidate is not measured any further."""

Run = Callable[[], object]


def speedup(reference: Sequence[Run], candidate: Sequence[Run], *, seconds: float, pause: float = PAUSE) -> float:
    """Return how many times as fast as `reference` a `candidate` is: the ratio of the summed medians of their runs.

    Both hold the same runs in the same order. Each is run once without timing. Then all are run in rounds, until there
    are ROUNDS of them or `seconds` are over, at least once. Before each run there is a pause of `pause` seconds.
    """
    for run in (*reference, *candidate):
        run()
    started = time.perf_counter()
    rounds: list[list[tuple[float, float]]] = []
    pairs = list(zip(reference, candidate, strict=True))
    while len(rounds) < ROUNDS and (not rounds or time.perf_counter() - started < seconds):
        rounds.append([(_timed(one, pause), _timed(other, pause)) for one, other in pairs])
        if _ratio(rounds) < GIVE_UP_BELOW:
            break
    return _ratio(rounds)


def _ratio(rounds: Sequence[Sequence[tuple[float, float]]]) -> float:
    """Return the summed medians of the first runs over those of the second, in seconds by round and pair of runs."""
    runs = list(zip(*rounds, strict=True))
    first, second = (sum(statistics.median(pair[side] for pair in pairs) for pairs in runs) for side in range(2))
    return float(first / second)


def _timed(run: Run, pause: float) -> float:
    time.sleep(pause)
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
