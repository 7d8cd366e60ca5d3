"""The time and memory of each step are reported, and observers are told of the steps in order."""

import time
from pathlib import Path

import numpy as np
import pytest

from rpln_export.steps import Silent, Step, Steps

MEGABYTE = 1 << 20

needs_peaks = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux starts a new peak of memory on request"
)


@needs_peaks
def test_the_peak_is_that_of_the_step_and_not_of_those_before() -> None:
    steps = Steps(Silent())
    with steps.step("before"):
        pass
    with steps.step("large"):
        np.ones(200 * MEGABYTE, dtype=np.int8).sum()
    with steps.step("after"):
        pass
    before, large, after = (step.peak_memory for step in steps.finished)
    assert 150 * MEGABYTE < large - before < 250 * MEGABYTE
    assert abs(after - before) < 50 * MEGABYTE
    assert before > 20 * MEGABYTE  # Python and numpy alone take this many bytes; in another unit it would be less


def test_steps_work_on_a_system_that_cannot_reset_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str, encoding: str) -> int:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "write_text", refuse)
    steps = Steps(Silent())
    with steps.step("load"):
        pass
    assert steps.finished[0].peak_memory > 20 * MEGABYTE


def test_seconds_are_wall_clock_time() -> None:
    steps = Steps(Silent())
    with steps.step("sleep"):
        time.sleep(0.2)
    assert 0.2 <= steps.finished[0].seconds < 2.0


class Recorder:
    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def start(self, name: str) -> None:
        self.heard.append(("start", name))

    def advance(self, done: int, total: int) -> None:
        self.heard.append(("advance", done, total))

    def finish(self, step: Step) -> None:
        self.heard.append(("finish", step.name))


def test_the_watcher_is_told_what_happens() -> None:
    watcher = Recorder()
    steps = Steps(watcher)
    with steps.step("trace"):
        pass
    with steps.step("validate") as advance:
        advance(1, 2)
        advance(2, 2)
    assert watcher.heard == [
        ("start", "trace"),
        ("finish", "trace"),
        ("start", "validate"),
        ("advance", 1, 2),
        ("advance", 2, 2),
        ("finish", "validate"),
    ]


def test_a_step_that_fails_is_not_finished() -> None:
    watcher = Recorder()
    steps = Steps(watcher)
    with pytest.raises(ValueError, match="stop"), steps.step("trace"):
        raise ValueError("stop")
    assert steps.finished == []
    assert watcher.heard == [("start", "trace")]
