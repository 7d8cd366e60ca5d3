"""Progress in notebooks: one output below the cell, a line for each step. It needs no widgets."""

import time
from dataclasses import dataclass
from html import escape
from typing import Any, Final, Self

from rpln_export.steps import Step

REDRAW_SECONDS: Final = 0.2
"""The shortest time between two drawings of a running step: a notebook draws all of them, one after another."""
_BAR: Final = 30
"""The characters of a full bar."""


@dataclass(slots=True)
class Line:
    """What is shown of a step: its name, how much of it is done, and its seconds once it is over."""

    name: str
    done: int = 0
    total: int = 0
    seconds: float | None = None

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"{self.name:<12} {self.seconds:8.1f} s"
        if not self.total:
            return f"{self.name:<12} ..."
        full = _BAR * self.done // self.total
        return f"{self.name:<12} {'█' * full}{'░' * (_BAR - full)} {self.done} of {self.total}"


class NotebookWatcher:
    """A watcher that shows the steps below the cell that runs. It is a context manager."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._output: Any = None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        from IPython.display import display

        self._output = display(self, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()

    def __repr__(self) -> str:
        return "\n".join(map(str, self._lines))

    def _repr_html_(self) -> str:
        """Return the lines for a notebook."""
        return f"<pre>{escape(repr(self))}</pre>"

    def start(self, name: str) -> None:
        """Show that a step begins."""
        self._lines.append(Line(name))
        self._draw()

    def advance(self, done: int, total: int) -> None:
        """Show how much of the running step is done."""
        self._lines[-1].done, self._lines[-1].total = done, total
        if time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def finish(self, step: Step) -> None:
        """Show how long the running step took."""
        self._lines[-1].seconds = step.seconds
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._output.update(self)
