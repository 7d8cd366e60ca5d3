"""How much faster one way to run a graph is than another: in turn, in one run, with pauses between them."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

ROUNDS: Final = 5
PAUSE: Final = 0.005
"""Seconds. Idle threads of the one that ran last may still spin, and slow down whoever runs next."""
NOISE: Final = 0.05
"""Of a speed: what is not faster by more than this is taken for equal."""
GIVE_UP_BELOW: Final = 0.7
"""A contender this much slower is given up."""

Run = Callable[[], object]


def speedup(reference: Sequence[Run], contender: Sequence[Run], *, seconds: float, pause: float = PAUSE) -> float:
    """How many times as fast `contender` does its runs as `reference` does the same: the ratio of summed medians.

    Each run is made once first, untimed; then rounds are made until there are ROUNDS of them, or the time is up.
    """
    for run in (*reference, *contender):
        run()
    started = time.perf_counter()
    rounds: list[list[tuple[float, float]]] = []
    pairs = list(zip(reference, contender, strict=True))
    while len(rounds) < ROUNDS and (not rounds or time.perf_counter() - started < seconds):
        rounds.append([(_timed(one, pause), _timed(other, pause)) for one, other in pairs])
        if _ratio(rounds) < GIVE_UP_BELOW:
            break
    return _ratio(rounds)


def _ratio(rounds: Sequence[Sequence[tuple[float, float]]]) -> float:
    """Summed medians of the first over those of the second."""
    runs = list(zip(*rounds, strict=True))
    first, second = (sum(statistics.median(pair[side] for pair in pairs) for pairs in runs) for side in range(2))
    return float(first / second)


def _timed(run: Run, pause: float) -> float:
    time.sleep(pause)
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
