"""What `rpln batch` says when it is interrupted, and when it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import rpln_runtime.corpus
from rpln_export.commands.batch import batch_command
from rpln_runtime.corpus import Progress

END = "To continue, run the same command again. out.jsonl is written when it is complete.\n"


ANSWERED = "0 of the 256 lines answered are on disk, since they are written in windows of"


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run the command with a stand-in that tells its watcher these lines, and is interrupted then."""

    def run(*options: str, on_disk: list[int], answered: int) -> Result:
        def run_corpus(*_: Any, on_progress: Any, on_lines: Any, **__: Any) -> None:
            for lines in on_disk:
                on_progress(Progress(lines=lines, read=lines), 5000)
            if answered:
                on_lines(answered, answered)
            raise KeyboardInterrupt

        monkeypatch.setattr(rpln_runtime.corpus, "run_corpus", run_corpus)
        return CliRunner().invoke(batch_command, ["bundle", "in.jsonl", "out.jsonl", *options])

    return run


@pytest.mark.parametrize(
    ("options", "on_disk", "answered", "says"),
    [
        ((), [], 0, ""),
        (
            (),
            [0],
            256,
            f"{ANSWERED} 1,024 (--window 128 keeps more). ",
        ),
        (
            ("--window", "100"),
            [0],
            50,
            "0 of the 50 lines answered are on disk, since they are written in windows of 100. ",
        ),
        (
            (),
            [0, 1024],
            1500,
            "1,024 of the 1,500 lines answered are on disk, since they are written in windows of 1,024. ",
        ),
        ((), [0, 1024], 0, "1,024 of the 1,024 lines answered are on disk. "),
    ],
    ids=["before-it-began", "in-the-first-window", "in-a-small-window", "in-the-second-window", "between-windows"],
)
def test_an_interrupt_says_how_much_is_kept(
    batch: Callable[..., Result], options: tuple[str, ...], on_disk: list[int], answered: int, says: str
) -> None:
    result = batch(*options, on_disk=on_disk, answered=answered)
    assert result.exit_code == 130
    assert result.stderr == f"Interrupted. {says}{END}"


def test_a_run_that_goes_on_says_where(batch: Callable[..., Result]) -> None:
    assert batch(on_disk=[1024, 2048], answered=0).stderr.startswith("Going on after line 1,024.\nInterrupted.")
