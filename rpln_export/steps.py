"""The steps of an export: each is timed, its peak memory is measured, and a watcher is told of it."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A finished step: `seconds` of wall-clock time and the process's peak resident memory in bytes while it ran."""

    name: str
    seconds: float
    peak_memory: int


class Watcher(Protocol):
    """Somebody who is told of the steps, for example to show them."""

    def start(self, name: str) -> None:
        """Take note that a step begins."""

    def advance(self, done: int, total: int) -> None:
        """Take note that the running step has done `done` of `total`."""

    def finish(self, step: Step) -> None:
        """Take note that the running step is over."""


class Silent:
    """A watcher that shows nothing."""

    def start(self, name: str) -> None:
        """Do nothing."""

    def advance(self, done: int, total: int) -> None:
        """Do nothing."""

    def finish(self, step: Step) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Steps:
    """A runner of steps, one after another, which keeps a record of them."""

    watcher: Watcher
    finished: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Time the block. What it yields is called with (done, total) to say how far the work in the block is."""
        self.watcher.start(name)
        _reset_peak_memory()
        begun = time.perf_counter()
        yield self.watcher.advance
        step = Step(name=name, seconds=time.perf_counter() - begun, peak_memory=_peak_memory())
        self.finished.append(step)
        self.watcher.finish(step)


def _reset_peak_memory() -> None:
    """Have Linux begin a new measurement of the peak memory.

    On other systems, and where Linux refuses, the peak is that of the process so far.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
