"""Progress on stderr, while an export or a corpus runs. Nothing is shown where stderr is not a terminal."""

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from rpln_export.steps import Step
    from rpln_runtime.corpus import Progress as CorpusProgress


class ProgressWatcher:
    """A watcher that shows each step while it runs, with a bar if it counts. It is a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, name: str) -> None:
        """Show that a step begins."""
        self._task = self._progress.add_task(name, total=None)

    def advance(self, done: int, total: int) -> None:
        """Show how much of the running step is done."""
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total)

    def finish(self, step: "Step") -> None:  # noqa: ARG002 # every watcher has it
        """Show that the running step is over."""
        assert self._task is not None
        self._progress.update(self._task, completed=1, total=1)


class CorpusWatcher:
    """A context manager that shows how much of a corpus is answered.

    The bar stands for the bytes of the input, the number for its lines.
    """

    def __init__(self, name: str) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._name = name
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, progress: "CorpusProgress", size: int) -> None:
        """Show `progress` in an input of `size` bytes."""
        self._progress.update(
            self._task,
            description=f"{self._name}: {lines_in_words(progress)}",
            completed=progress.read,
            total=max(size, 1),
        )


def lines_in_words(progress: "CorpusProgress") -> str:
    """Return how many lines a run has read, and how many of them it could not answer."""
    return f"{progress.lines:,} lines" + (f", {progress.errors:,} of them errors" if progress.errors else "")
