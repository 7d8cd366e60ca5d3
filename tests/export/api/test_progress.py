"""Progress: below the cell in a notebook, on stderr elsewhere, or nowhere."""

import sys
from types import ModuleType
from typing import Any

import pytest

from rpln_export.api import notebook
from rpln_export.api.notebook import NotebookWatcher
from rpln_export.api.progress import in_notebook, watching
from rpln_export.commands.show.progress import ProgressWatcher
from rpln_export.steps import Silent, Step, Steps


class Display:
    """Stands in for the output of a cell: keeps what a notebook would show, one drawing after another."""

    def __init__(self) -> None:
        self.drawings: list[str] = []

    def __call__(self, shown: Any, *, display_id: bool) -> "Display":
        assert display_id
        self.update(shown)
        return self

    def update(self, shown: Any) -> None:
        self.drawings.append(shown._repr_html_())


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Display:
    """Return the output of a cell, in a process that a kernel of Jupyter seems to run."""
    shell, ipython, shown = ModuleType("shell"), ModuleType("IPython"), ModuleType("IPython.display")
    display = Display()
    vars(shell).update(kernel=object())
    vars(ipython).update(get_ipython=lambda: shell, display=shown)
    vars(shown).update(display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    return display


def test_a_notebook_shows_the_steps_in_one_output(cell: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "REDRAW_SECONDS", 0.0)
    with watching(progress=True) as watcher:
        assert isinstance(watcher, NotebookWatcher)
        steps = Steps(watcher)
        with steps.step("trace <b>"):
            pass
        with steps.step("validate") as advance:
            advance(15, 46)
            advance(46, 46)
    assert any("validate     █████████░░░░░░░░░░░░░░░░░░░░░ 15 of 46" in drawing for drawing in cell.drawings)
    last = cell.drawings[-1]
    assert "<b>" not in last
    assert [line.split()[0] for line in last.removeprefix("<pre>").splitlines()] == ["trace", "validate"]
    assert last.count(" s") == 2


def test_a_notebook_is_not_drawn_for_every_case(cell: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "REDRAW_SECONDS", 3600.0)
    with watching(progress=True) as watcher:
        watcher.start("validate")
        for done in range(1000):
            watcher.advance(done, 1000)
        watcher.finish(Step(name="validate", seconds=2.0, peak_memory=0))
    assert len(cell.drawings) < 6


def test_without_a_kernel_stderr_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    with watching(progress=True) as watcher:
        assert isinstance(watcher, ProgressWatcher)


def test_nothing_is_shown_on_request_and_a_watcher_of_the_caller_is_told() -> None:
    own = Silent()
    with watching(progress=False) as silent, watching(progress=own) as given:
        assert isinstance(silent, Silent)
        assert given is own
