"""Something moves from the start of a command to its end. Elsewhere than on a terminal, a line comes now and then."""

import ast
import io
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from rpln_export import commands
from rpln_export.cli import rpln_command
from rpln_export.commands.show import progress
from rpln_export.commands.show.progress import LINE_SECONDS, CorpusWatcher, ProgressWatcher, _Lines
from rpln_export.steps import Steps
from rpln_runtime.corpus import Progress as CorpusProgress

WATCHERS = {"ProgressWatcher", "CorpusWatcher"}
COMMANDS = {
    path.stem: functions[0]
    for path in sorted(Path(commands.__file__).parent.glob("*.py"))
    if (
        functions := [
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_command")
        ]
    )
}


@pytest.fixture(autouse=True)
def lines_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what `no_lines_of_progress` does for other tests."""
    monkeypatch.setattr(progress, "LINE_SECONDS", LINE_SECONDS)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Let watchers write to a terminal, and return a function that gives the lines that were drawn last."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    erase = "\x1b[2K"
    return lambda: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue().rpartition(erase)[2]).strip()


def wait_for(seen: Callable[[], bool]) -> None:
    """Wait until something is seen. A minute is far more than the busiest machine needs."""
    end = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- every command -----------------------------------------------------------------------------------------------------


def test_every_command_is_looked_at() -> None:
    assert {command.name for command in COMMANDS.values()} >= {
        "export_command",
        *(f"{name}_command" for name in rpln_command.commands if name != "eval"),
        "evaluate_command",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_what_it_needs_while_a_watcher_is_open(name: str) -> None:
    """rich is what shows progress. Anything heavier, and so all the work, is imported below a watcher."""
    command = COMMANDS[name]
    watched = {
        inner
        for node in ast.walk(command)
        if isinstance(node, ast.With) and WATCHERS & {name.id for name in names_in(node)}
        for inner in ast.walk(node)
    }
    assert watched
    heavy = [node for node in ast.walk(command) if isinstance(node, ast.ImportFrom) and not is_light(node)]
    assert [ast.unparse(node) for node in heavy if node not in watched] == []


def names_in(node: ast.With) -> list[ast.Name]:
    """Return the names that stand in the first line of a with statement."""
    return [name for item in node.items for name in ast.walk(item.context_expr) if isinstance(name, ast.Name)]


def is_light(node: ast.ImportFrom) -> bool:
    return node.module in {"rich.console", "rpln_export.commands.show.progress"}


# -- a terminal --------------------------------------------------------------------------------------------------------


def test_the_spinner_turns_while_nothing_is_told(screen: Callable[[], str]) -> None:
    seen = set()

    def turned() -> bool:
        seen.add(screen()[:1])
        return len(seen) > 3

    with ProgressWatcher("inspecting"):
        wait_for(turned)
        assert "inspecting" in screen()
    assert screen() == ""


def test_something_runs_before_between_and_after_steps(screen: Callable[[], str]) -> None:
    with ProgressWatcher() as watcher:
        steps = Steps(watcher)
        shown = []
        for name in ("trace", "save"):
            shown.append(running(watcher))
            with steps.step(name) as advance:
                shown.append(running(watcher))
                advance(1, 2)
        shown.append(running(watcher))
    assert shown == [["loading PyTorch"], ["trace"], ["working"], ["save"], ["working"]]
    assert [line.split()[:2] for line in screen().splitlines()] == [["✓", "trace"], ["✓", "save"]]


def running(watcher: ProgressWatcher) -> list[str]:
    """Return the names of what is on the screen and not finished."""
    assert isinstance(watcher._view, progress._Bars)
    return [task.description for task in watcher._view._progress.tasks if not task.finished]


def test_a_step_that_fails_stays_without_its_mark(screen: Callable[[], str]) -> None:
    with pytest.raises(ZeroDivisionError), ProgressWatcher() as watcher, Steps(watcher).step("trace"):
        raise ZeroDivisionError
    assert "✓" not in screen()
    assert "trace" in screen()


def test_the_bar_of_a_corpus_moves_within_a_window(screen: Callable[[], str]) -> None:
    with CorpusWatcher("in.jsonl") as watcher:
        watcher.written(CorpusProgress(lines=1000, errors=2, read=400), 1000)
        watcher.answered(1500, 600)
    assert "in.jsonl: 1,500 lines, 2 of them errors" in " ".join(screen().split())
    assert "60%" in screen()


# -- elsewhere ---------------------------------------------------------------------------------------------------------


class Clock:
    """Stands in for the clock and for the event that ends the lines: whoever waits for it moves the clock."""

    def __init__(self, told: dict[int, Callable[[], None]], waits: int) -> None:
        self.now = 0.0
        self._told = told
        self._waits = waits

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self._told.get(round(self.now), lambda: None)()
        return self.now > self._waits * seconds

    def set(self) -> None:
        pass


def test_lines_say_every_15_seconds_which_step_runs_and_how_far_it_is() -> None:
    stream = io.StringIO()

    def validate() -> None:
        lines.begin("validate")
        lines.update(1, 4, "validate")

    clock = Clock({30: validate, 45: lambda: lines.update(3, 4, "validate")}, waits=4)
    lines = _Lines(stream, over=clock, clock=lambda: clock.now)  # type: ignore[arg-type]
    lines.begin("trace")
    lines.write()

    assert LINE_SECONDS == 15
    assert stream.getvalue().splitlines() == [
        "trace, 15 s",
        "validate, 25%, 0 s",
        "validate, 75%, 15 s",
        "validate, 75%, 30 s",
    ]


def test_a_pipe_gets_lines_and_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    heard: list[str] = []

    def hears() -> bool:
        printed = capsys.readouterr()
        heard.append(printed.err)
        return bool(printed.err)

    with ProgressWatcher("inspecting"):
        wait_for(hears)
    assert re.fullmatch(r"(inspecting, \d+ s\n)+", heard[-1])
    assert capsys.readouterr().out == ""


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    assert isinstance(ProgressWatcher()._view, _Lines)


def test_lines_end_without_a_word_where_nobody_reads_them() -> None:
    stream = io.StringIO()
    stream.close()
    clock = Clock({}, waits=2)
    lines = _Lines(stream, over=clock, clock=lambda: clock.now)  # type: ignore[arg-type]
    lines.write()
    assert clock.now == LINE_SECONDS
