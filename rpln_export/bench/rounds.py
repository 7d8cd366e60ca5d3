"""Rounds: every contender runs every case in turn, so that what slows the machine down slows all of them down."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rpln_export.forms.speeds import LEAST_ROUNDS, MOST_ROUNDS

PAUSE: Final = 0.05
"""Seconds before each turn. Idle threads of the last contender may spin, and do not slow the next one down."""
TURN: Final = 0.1
"""About how many seconds a contender runs a case in a turn."""
MOST_RUNS: Final = 20
"""The most runs of a turn that count."""
WARM_UPS: Final = 2
"""How often every contender runs every case before the first round. The last of these runs tells how long one takes."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The seconds of one run of a case.

    Attributes:
        total: the seconds of the whole run.
        prompt: for decoders, the seconds until the first new token; over all batches of the case.
        token: for decoders, the seconds of each later token, as their mean.
    """

    total: float
    prompt: float | None = None
    token: float | None = None


Run = Callable[[Clock], Sample]
"""Runs a case once, and tells by the clock how long that took."""


@dataclass(slots=True, kw_only=True)
class Rounds:
    """What was measured so far.

    Attributes:
        planned: how many rounds there were to be.
        samples: the samples of each case, contender and round.
        interrupted: whether an interrupt ended the rounds early.
    """

    planned: int = 0
    samples: list[list[list[list[Sample]]]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def finished(self) -> int:
        """How many rounds all cases have."""
        return min(len(rounds) for case in self.samples for rounds in case) if self.samples else 0


def run_rounds(
    runs: Sequence[Sequence[Run]],
    *,
    seconds: float,
    rounds: int | None = None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
    advance: Callable[[int, int], object] = lambda *_: None,
) -> Rounds:
    """Run all `runs`, which are given by case and contender, in rounds.

    Each is first run WARM_UPS times without counting. Then there are `rounds`, or as many as fit into `seconds` with
    the warm-up, from LEAST_ROUNDS to MOST_ROUNDS. Contenders change their order from round to round. A turn is a pause,
    a run that does not count, and runs that do. `advance` is told how many turns of how many are done. An interrupt
    after the warm-up ends the rounds, and what was measured is returned.
    """
    started = clock()
    estimates = [[_warm_up(run, clock) for run in case] for case in runs]
    counts = [[max(1, min(MOST_RUNS, int(TURN / max(each, 1e-9)))) for each in case] for case in estimates]
    turn_seconds = sum(
        PAUSE + each * (count + 1)
        for case, repeats in zip(estimates, counts, strict=True)
        for each, count in zip(case, repeats, strict=True)
    )
    left = seconds - (clock() - started)
    planned = rounds or max(LEAST_ROUNDS, min(MOST_ROUNDS, int(left / turn_seconds)))
    measured = Rounds(planned=planned, samples=[[[] for _ in case] for case in runs])
    turns = sum(map(len, runs))
    try:
        for number in range(planned):
            if rounds is None and number >= LEAST_ROUNDS and clock() - started >= seconds:
                break
            done = number * turns
            for case, repeats, collected in zip(runs, counts, measured.samples, strict=True):
                order = range(len(case))[:: -1 if number % 2 else 1]
                found: dict[int, list[Sample]] = {}
                for place in order:
                    sleep(PAUSE)
                    case[place](clock)
                    found[place] = [case[place](clock) for _ in range(repeats[place])]
                    done += 1
                    advance(done, planned * turns)
                for place, samples in found.items():
                    collected[place].append(samples)
        advance(planned * turns, planned * turns)  # the time may be over before all rounds are
    except KeyboardInterrupt:
        measured.interrupted = True
    return measured


def _warm_up(run: Run, clock: Clock) -> float:
    """Run a case WARM_UPS times, and return the seconds of the last run."""
    *_, last = [run(clock) for _ in range(WARM_UPS)]
    return last.total
