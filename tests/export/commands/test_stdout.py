"""What the programs print reaches stdout in any encoding; a full disk is a sentence, and a closed pipe is silence."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rpln_export.cli import export_command, rpln_command
from rpln_runtime import __main__ as runtime_program
from rpln_runtime import command_line, pipeline
from rpln_runtime.command_line import UNPRINTED, texts_from_arguments
from rpln_runtime.triton import __main__ as triton_program
from tests.export.conftest import Export

TEXT = "A naïve dog 😀 barked."
PRINTING = {
    "run": ["run", "BUNDLE", TEXT],
    "run --json": ["run", "BUNDLE", TEXT, "--json"],
    "batch": ["batch", "BUNDLE", "IN", "OUT"],
    "triton": ["triton", "BUNDLE", "-o", "REPOSITORY"],
    "inspect": ["inspect", "BUNDLE"],
    "inspect --json": ["inspect", "BUNDLE", "--json"],
    "engine": ["engine", "BUNDLE", "--json"],
    "eval": ["eval", "BUNDLE", "EXAMPLES"],
    "eval --json": ["eval", "BUNDLE", "EXAMPLES", "--json"],
    "doctor": ["doctor", "--json"],
    "help": ["--help"],
    "version": ["--version"],
} | {f"{name} --help": [name, "--help"] for name in rpln_command.commands}
"""Arguments of rpln with which each command prints something."""


def run(program: Callable[..., object], arguments: list[str]) -> int:
    """Run a program in this process, and return its exit code."""
    with pytest.raises(SystemExit) as exit_:
        sys.exit(program(arguments))  # type: ignore[arg-type]  # click's programs exit themselves
    return int(exit_.value.code or 0)


@pytest.fixture
def arguments_of(exported: Callable[..., Export], tmp_path: Path) -> Callable[[str], list[str]]:
    """Return a function that gives the arguments of a row of PRINTING, with a bundle and files in their places."""
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"text": TEXT}))
    examples = tmp_path / "examples.jsonl"
    examples.write_text(json.dumps({"words": ["A", "dog"], "labels": ["O", "NOUN"]}))
    places = {"IN": source, "EXAMPLES": examples, "OUT": tmp_path / "out.jsonl", "REPOSITORY": tmp_path / "repository"}

    def arguments(name: str) -> list[str]:
        bundle = exported("token-classification").folder if "BUNDLE" in PRINTING[name] else tmp_path
        return [str({**places, "BUNDLE": bundle}.get(word, word)) for word in PRINTING[name]]

    return arguments


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_the_encoding_lacks_is_printed_as_escapes_of_json(
    exported: Callable[..., Export], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported("token-classification").folder
    expected = pipeline(folder, ignore_labels=[])(TEXT)
    assert any("Ġ" in entity["word"] for entity in expected)
    arguments = ["run", str(folder), TEXT, "--option", "ignore_labels=[]"]
    for program, given in ((rpln_command, [*arguments, "--json"]), (runtime_program.main, arguments)):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        assert run(program, given) == 0
        assert json.loads(written.getvalue().decode(encoding)) == [expected]
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    assert run(rpln_command, arguments) == 0
    assert "\\u0120" in shown.getvalue().decode(encoding)


@pytest.mark.parametrize("name", PRINTING)
def test_a_full_disk_is_a_sentence(
    arguments_of: Callable[[str], list[str]],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = arguments_of(name)
    capsys.readouterr()
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(rpln_command, arguments) == UNPRINTED
    said = capsys.readouterr().err
    assert said.startswith("Error: stdout cannot be written ([Errno 28] No space left on device).")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", PRINTING)
def test_a_closed_pipe_is_silence(
    arguments_of: Callable[[str], list[str]],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = arguments_of(name)
    capsys.readouterr()  # what making them printed
    reading, writing = os.pipe()
    os.close(reading)
    pipe = os.fdopen(writing, "w", encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", pipe)
        assert run(rpln_command, arguments) == 1
    with contextlib.suppress(BrokenPipeError):  # what was not read is still in its buffer
        pipe.close()
    assert capsys.readouterr().err == ""


def test_the_other_programs_say_it_too(
    exported: Callable[..., Export],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = str(exported("token-classification").folder)
    programs: list[tuple[Callable[..., object], list[str]]] = [
        (export_command, ["--help"]),
        (runtime_program.main, ["run", folder, TEXT]),
        (triton_program.main, [folder, "-o", str(tmp_path / "repository")]),
    ]
    for program, arguments in programs:
        with Path("/dev/full").open("w", encoding="utf-8") as full, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", full)
            assert run(program, arguments) == UNPRINTED
        assert "No space left on device" in capsys.readouterr().err


def test_a_dash_stands_for_the_lines_of_the_standard_input(
    exported: Callable[..., Export], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported("text-classification").folder
    expected = pipeline(folder)(["First.", "A dog barked.", "", "It slept.", "Last."])
    for program, options in ((rpln_command, ["--json"]), (runtime_program.main, [])):
        lines = io.BytesIO(b"\xef\xbb\xbfA dog barked.\r\n\nIt slept.")  # as an editor of Windows may write them
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines, "utf-8", newline="\n"))  # as sys.stdin is on Linux
        assert run(program, ["run", str(folder), "First.", "-", "Last.", *options]) == 0
        answers = json.loads(capsys.readouterr().out)
        assert [label for (label,) in answers] == expected
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"A dog\xff barked."), "utf-8"))
        assert run(program, ["run", str(folder), "-"]) == 3
        assert "the standard input is not utf-8 (invalid start byte at byte 5)" in capsys.readouterr().err
        with monkeypatch.context() as patched:
            patched.setattr(command_line, "MOST_CHARACTERS", 100)
            patched.setattr(sys, "stdin", io.StringIO("y\n" * 50))
            assert list(texts_from_arguments(["-"])) == ["y"] * 50
            patched.setattr(sys, "stdin", io.StringIO("\0" * 10**6))  # what /dev/zero gives never ends
            assert run(program, ["run", str(folder), "-"]) == 3
            assert "the standard input has more than 100 characters" in capsys.readouterr().err
            assert sys.stdin.tell() == 101
        monkeypatch.setattr(sys, "stdin", None)  # as after <&- in a shell
        assert run(program, ["run", str(folder), "-"]) == 3
        assert "the standard input is closed" in capsys.readouterr().err
