"""Progress on stderr: bars and a spinner on a terminal, elsewhere a line now and then.

The spinner is drawn by a thread of its own, as the lines are, so that a command shows that it is at work for as long
as it is, whatever a step tells. This module imports nothing heavy: commands open a watcher before they import torch.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, Protocol, Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from rpln_export.steps import Step
    from rpln_runtime.corpus import Progress as CorpusProgress

LINE_SECONDS: Final = 15.0
"""The seconds between two lines where stderr is no terminal."""
LOADING: Final = "loading PyTorch"
"""What is shown before the first step."""


class _View(Protocol):
    """Something that shows one line of progress after another. All of it may be called while it is closed, too."""

    def open(self) -> None:
        """Begin to show what is told."""

    def close(self) -> None:
        """Show no more."""

    def begin(self, name: str) -> None:
        """Show that something called `name` begins, in place of what ran before."""

    def update(self, done: int, total: int, name: str) -> None:
        """Show that `done` of `total` is done of what runs, which is called `name` from now on."""

    def end(self, *, keep: bool) -> None:
        """Show that what runs is over, and whether its line stays on the screen."""


class _Bars:
    """Shows progress on a terminal: a line with a spinner, a bar and the time for each thing that runs."""

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            *columns,
            console=console,
        )
        self._task: TaskID | None = None

    def open(self) -> None:
        self._progress.start()

    def close(self) -> None:
        self._progress.stop()

    def begin(self, name: str) -> None:
        self._task = self._progress.add_task(name, total=None)

    def update(self, done: int, total: int, name: str) -> None:
        assert self._task is not None
        self._progress.update(self._task, description=name, completed=done, total=total)

    def end(self, *, keep: bool) -> None:
        assert self._task is not None
        if keep:
            self._progress.update(self._task, completed=1, total=1)
        else:
            self._progress.remove_task(self._task)


@dataclass(slots=True)
class _Running:
    """What runs: its name, when it began, and how much of it is done; of a total of 0, that is not known."""

    name: str
    begun: float
    done: int = 0
    total: int = 0


class _Lines:
    """Shows progress where there is no terminal: every LINE_SECONDS, a line says what runs and how far it is."""

    def __init__(
        self, stream: IO[str], *, over: threading.Event | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._over = over or threading.Event()
        self._clock = clock
        self._thread = threading.Thread(target=self.write, daemon=True)
        self._running = _Running("", clock())

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def begin(self, name: str) -> None:
        self._running = _Running(name, self._clock())

    def update(self, done: int, total: int, name: str) -> None:
        self._running.name, self._running.done, self._running.total = name, done, total

    def end(self, *, keep: bool) -> None:
        """Do nothing: the next thing that begins takes its place."""

    def write(self) -> None:
        """Write lines until it is over, or until nobody reads them."""
        with suppress(OSError, ValueError):  # a stream that is closed raises ValueError
            while not self._over.wait(LINE_SECONDS):
                self._stream.write(f"{self._line()}\n")
                self._stream.flush()

    def _line(self) -> str:
        one = self._running
        share = f", {one.done / one.total:.0%}" if one.total else ""
        return f"{one.name}{share}, {self._clock() - one.begun:.0f} s"


def _view(*columns: ProgressColumn) -> _View:
    """Return what shows progress on stderr. `columns` follow the bar on a terminal."""
    console = Console(stderr=True)
    # A dumb terminal cannot move its cursor, and rich would show nothing there until the end.
    return _Bars(console, *columns) if console.is_terminal and not console.is_dumb_terminal else _Lines(console.file)


class ProgressWatcher:
    """A watcher that shows each step while it runs. It is a context manager.

    Between steps, and in commands without any, it shows `name`, so that something always moves until it is closed.
    Commands without a name take a while to import torch before their first step, and it says so.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name or "working"
        self._shown = name or LOADING
        self._step: str | None = None
        self._is_open = False
        self._view = _view(TimeElapsedColumn())

    def __enter__(self) -> Self:
        self._view.begin(self._shown)
        self._view.open()
        self._is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Show no more, as at the end of the block; a second time, do nothing."""
        if not self._is_open:
            return
        self._is_open = False
        if self._step is None:
            self._view.end(keep=False)
        self._view.close()

    def start(self, name: str) -> None:
        """Show that a step begins."""
        self._view.end(keep=False)
        self._step = name
        self._view.begin(name)

    def advance(self, done: int, total: int) -> None:
        """Show how much of the step is done; between steps, of all that is done there."""
        self._view.update(done, total, self._step or self._shown)

    def finish(self, step: "Step") -> None:  # noqa: ARG002 # every watcher has it
        """Show that the running step is over."""
        self._view.end(keep=True)
        self._step = None
        self._shown = self._name
        self._view.begin(self._shown)


class CorpusWatcher:
    """A context manager that shows how much of a corpus is answered.

    The bar stands for the bytes of the input, the number for its lines.

    Attributes:
        on_disk: how many lines have an answer on disk; None before the run begins.
        lines: about how many lines are answered.
    """

    def __init__(self, name: str) -> None:
        self.on_disk: int | None = None
        self.lines = 0
        self._name = name
        self._errors = 0
        self._size = 1
        self._view = _view(
            TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
        )

    def __enter__(self) -> Self:
        self._view.begin(self._name)
        self._view.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._view.close()

    def written(self, progress: "CorpusProgress", size: int) -> None:
        """Show `progress` in an input of `size` bytes, and say so where an earlier run came that far."""
        if self.on_disk is None and progress.lines:
            click.echo(f"Going on after line {progress.lines:,}.", err=True)
        self.on_disk = progress.lines
        self._errors, self._size = progress.errors, max(size, 1)
        self.answered(progress.lines, progress.read)

    def answered(self, lines: int, read: int) -> None:
        """Show how many lines are answered, which are `read` bytes of the input."""
        self.lines = lines
        self._view.update(read, self._size, f"{self._name}: {lines_in_words(lines, self._errors)}")


def lines_in_words(lines: int, errors: int) -> str:
    """Return how many lines a run has read, and how many of them it could not answer."""
    return f"{lines:,} lines" + (f", {errors:,} of them errors" if errors else "")
