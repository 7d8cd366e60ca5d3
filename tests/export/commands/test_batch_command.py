"""The command `rpln batch`. tests/runtime/corpus tests `run_corpus`, which it calls."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import rpln_runtime.corpus
from rpln_export.cli import INTERRUPTED, rpln_command
from rpln_runtime import pipeline
from rpln_runtime.corpus import Progress
from tests.export.conftest import Export

COMMAND = (sys.executable, "-c", "from rpln_export.cli import rpln_command; rpln_command(prog_name='rpln')", "batch")


def batch(*arguments: object) -> Result:
    return CliRunner().invoke(rpln_command, ["batch", *map(str, arguments)], catch_exceptions=False)


def write_corpus(path: Path, count: int) -> Path:
    path.write_text("".join(f'{{"id": {n}, "text": "The dog barked {n} times."}}\n' for n in range(count)))
    return path


@pytest.fixture(scope="module")
def bundle(exported: Callable[..., Export]) -> Path:
    return exported("fill-mask").folder


def test_lines_are_answered_with_the_options_of_the_task(bundle: Path, tmp_path: Path) -> None:
    texts = ["The <mask> barked.", "Ada wrote to <mask>."]
    (tmp_path / "in").write_text("".join(json.dumps({"id": text[:3], "text": text}) + "\n" for text in texts))
    arguments = ("--option", "top_k=2", "--batch-size", 1, "--window", 1, "--provider", "cpu", "--threads", 1)
    result = batch(bundle, tmp_path / "in", tmp_path / "out", *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{tmp_path / 'out'}: 2 lines\n", "")
    answer = pipeline(bundle, top_k=2, provider="cpu", threads=1)
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert lines == [{"id": text[:3], "answer": answer(text)} for text in texts]


def test_a_bad_line_ends_the_command_or_is_recorded(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"text": "A <mask>."}\n{"text": ""}\n{"text": "No mask."}\n')
    result = batch(bundle, tmp_path / "in", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"{tmp_path / 'in'}, line 2: a text has no <mask> among its 2 tokens" in result.stderr
    result = batch(bundle, tmp_path / "in", tmp_path / "out", "--on-error", "record")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'out'}: 3 lines, 2 of them errors\n")
    kinds = [list(json.loads(line)) for line in (tmp_path / "out").read_text().splitlines()]
    assert kinds == [["answer"], ["error"], ["error"]]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--window", "0"], 3, "window is 0, expected an integer, 1 or more"),
        (["--actors", "2"], 3, "actors is 2"),
        (["--option", "top_p=1"], 3, "unknown option 'top_p' for fill-mask"),
        (["--option", "top_p"], 2, "'top_p' is not NAME=VALUE"),
        (["--on-error", "skip"], 2, "'skip' is not one of"),
        (["--provider", "abacus"], 5, "unknown provider 'abacus'"),
    ],
)
def test_arguments_are_refused_with_their_exit_codes(
    bundle: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    result = batch(bundle, write_corpus(tmp_path / "in", 1), tmp_path / "out", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_output_that_exists_has_the_exit_code_of_a_destination(bundle: Path, tmp_path: Path) -> None:
    source, taken = write_corpus(tmp_path / "in", 1), write_corpus(tmp_path / "out", 2)
    for output, says in ((taken, "exists already"), (source, "is the output, too")):
        result = batch(bundle, source, output)
        assert (result.exit_code, says in result.stderr) == (9, True)
    assert [len(path.read_text().splitlines()) for path in (source, taken)] == [1, 2]


def test_an_output_that_is_no_file_is_named_as_what_it_is(bundle: Path, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in", 1)
    os.mkfifo(tmp_path / "pipe")
    for output, says in ((tmp_path, "is a folder, expected the name"), (tmp_path / "pipe", "is no regular file")):
        result = batch(bundle, source, output)
        assert (result.exit_code, says in result.stderr) == (9, True)
        assert "Remove it" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in", "pipe"}


def read_terminal(descriptor: int, seen: bytearray) -> None:
    while True:
        try:
            block = os.read(descriptor, 1 << 16)
        except OSError:  # Linux raises this when the other end is closed
            return
        if not block:
            return
        seen += block


def test_a_terminal_shows_how_far_it_is_and_an_interrupted_run_goes_on(
    exported: Callable[..., Export], tmp_path: Path
) -> None:
    bundle, source, output = (
        exported("text-classification").folder,
        write_corpus(tmp_path / "in", 1000),
        tmp_path / "out",
    )
    command = [*COMMAND, str(bundle), str(source), str(output), "--window", "20"]
    screen, terminal = pty.openpty()
    seen = bytearray()
    reader = threading.Thread(target=read_terminal, args=(screen, seen))
    reader.start()
    with subprocess.Popen(command, stderr=terminal, env={**os.environ, "COLUMNS": "120"}) as process:
        os.close(terminal)
        journal = tmp_path / "out.journal"
        while not (journal.exists() and len(journal.read_bytes().splitlines()) > 6):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
    reader.join()
    os.close(screen)
    assert process.returncode == INTERRUPTED
    said = rb"Interrupted\. [\d,]+ of the [\d,]+ lines answered are on disk.* To continue, run the same command again\."
    assert re.search(said, seen)
    shown = {int(count.replace(b",", b"")) for count in re.findall(rb"in: ([\d,]+) lines", seen)}
    assert 20 <= max(shown) <= 1000
    done = int(json.loads(journal.read_bytes().splitlines()[-1])["lines"])
    assert 100 <= done < 1000
    result = batch(bundle, source, output, "--window", 20)
    assert (result.stdout, result.stderr) == (f"{output}: 1,000 lines\n", f"Going on after line {done:,}.\n")
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == list(range(1000))


END = "To continue, run the same command again. out.jsonl is written when it is complete.\n"


ANSWERED = "0 of the 256 lines answered are on disk, since they are written in windows of"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command with a stand-in that tells its watcher these lines, and is interrupted then."""

    def run(*options: str, on_disk: list[int], answered: int) -> Result:
        def run_corpus(*_: Any, on_progress: Any, on_lines: Any, **__: Any) -> None:
            for lines in on_disk:
                on_progress(Progress(lines=lines, read=lines), 5000)
            if answered:
                on_lines(answered, answered)
            raise KeyboardInterrupt

        monkeypatch.setattr(rpln_runtime.corpus, "run_corpus", run_corpus)
        return batch("bundle", "in.jsonl", "out.jsonl", *options)

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
    told: Callable[..., Result], options: tuple[str, ...], on_disk: list[int], answered: int, says: str
) -> None:
    result = told(*options, on_disk=on_disk, answered=answered)
    assert result.exit_code == INTERRUPTED
    assert result.stderr == f"Interrupted. {says}{END}"


def test_a_run_that_goes_on_says_where(told: Callable[..., Result]) -> None:
    assert told(on_disk=[1024, 2048], answered=0).stderr.startswith("Going on after line 1,024.\nInterrupted.")
