"""Measures contenders in turn: how many times as fast as the first one each is, and how far its logits are from it."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.quantization.contenders import REFERENCE

PAUSE: Final = 0.05
"""Seconds before a run. Idle threads may still spin and slow it down."""


def speeds(runs: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Return how many times as fast as the first each is: the median of the ratios of all rounds."""
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    first = next(iter(taken.values()))
    return {
        name: statistics.median(one / other for one, other in zip(first, seconds, strict=True))
        for name, seconds in taken.items()
    }


def table_of_speeds(title: str, megabytes: Mapping[str, float], measured: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table with a row for each contender; `measured` has its speed by case."""
    rows = [
        f"| {name} | {' | '.join(f'{found[name]:.2f}' for found in measured.values())} | {size:.0f} |"
        for name, size in megabytes.items()
    ]
    head = [f"| | {' | '.join(measured)} | MB |", "|---|" + "---|" * (len(measured) + 1)]
    return "\n".join([f"## {title}\n", *head, *rows, ""])


def table_of_accuracy(title: str, logits: Mapping[str, Sequence[NDArray[Any]]]) -> str:
    """Return a table of the differences from REFERENCE, and of equal decisions; `logits` has an array for each text."""
    expected = logits[REFERENCE]
    reach = max(float(np.abs(array).max()) for array in expected)
    rows = []
    for name, found in logits.items():
        pairs = list(zip(found, expected, strict=True))
        differences = np.concatenate([(one - other).ravel() for one, other in pairs]) / reach
        equal = np.concatenate([(one.argmax(-1) == other.argmax(-1)).ravel() for one, other in pairs])
        rms, largest = np.sqrt(np.square(differences).mean()), np.abs(differences).max()
        rows.append(f"| {name} | {rms:.2e} | {largest:.2e} | {equal.mean():.2%} |")
    head = ["| | difference (rms) | largest difference | equal decisions |", "|---|---|---|---|"]
    return "\n".join(
        [f"## Accuracy: {title}, {len(expected)} texts, relative to the range of the logits\n", *head, *rows, ""]
    )
