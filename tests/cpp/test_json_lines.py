"""The example program answers JSON lines as `rpln batch` answers the same lines in a file."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click import UsageError

from rpln_runtime import InputError
from rpln_runtime.corpus import run_corpus
from rpln_runtime.limits import MOST_LINE_BYTES
from tests.cpp.building import Build
from tests.cpp.test_pipelines import assert_same

Demo = Callable[..., Path]
TEXTS = ["The old man walked to the boat.", "It rained.", "", "日本 \u2028 é", "Rain fell all night. " * 9]
RECORDS: dict[str, list[dict[str, Any]]] = {
    "feature-extraction": [{"text": text} for text in TEXTS[:2]],
    "fill-mask": [{"text": f"{text}<mask>."} for text in TEXTS],
    "multiple-choice": [
        {"prompt": text, "choices": ["He slept.", "He sailed.", "No."][: 1 + len(text) % 3]} for text in TEXTS
    ],
    "question-answering": [{"question": "Who walked?", "context": f"{text} He."} for text in TEXTS],
    "text-classification": [{"text": text} for text in TEXTS] + [{"text": TEXTS[0], "text_pair": TEXTS[1]}],
    "token-classification": [{"text": text} for text in TEXTS],
    "text-generation": [{"text": text} for text in TEXTS[:3]],
    "text2text-generation": [{"text": text} for text in TEXTS[:2]],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "text-generation": {"max_new_tokens": 4},
    "text2text-generation": {"max_new_tokens": 4},
}

# Each with the beginning of its error; None where it is answered.
LINES: list[tuple[bytes, str | None]] = [
    (b'{"id": 1, "text": "It rained."}', None),
    (b"", "it is not JSON ("),
    (b'{"text": "Windows."}\r', None),
    (b'{"text": "a"', "it is not JSON ("),
    (b"7", "it is not a JSON object"),
    (b'["a"]', "it is not a JSON object"),
    (b'{"id": 2}', "it has no field 'text'"),
    (b'{"id": 3, "text": 5}', "its 'text' is "),
    (b'{"id": 4, "text": null}', "its 'text' is "),
    (b'{"id": 5, "text": "a", "answer": 1}', "it has a field 'answer', which the output needs for itself: rename it"),
    (b'{"id": 6, "text": "a", "error": 1}', "it has a field 'error', which the output needs for itself: rename it"),
    (b'{"id": {"deep": [1.5, null, true]}, "text": "", "\xc3\xa9": "\xe2\x80\xa9"}', None),
    (b'{"text": "\xff"}', "it is not JSON ("),
    (b'{"text": "\\ud800"}', "it is not JSON ("),
    (b'\xef\xbb\xbf{"text": "a"}', "it is not JSON (it begins with a byte order mark"),
    (b'{"text": "a", "x": ' + b"[" * 70 + b"]" * 70 + b"}", "it is not JSON ("),
    (b'{"text": "a", "x": "' + b"b" * MOST_LINE_BYTES + b'"}', "it has more than "),
    (b'{"text": "a", "id": "\xc2\x85"}', None),
    (b'{"id": 7, "text": "The last line has no end."}', None),
]


def run(build: Build, folder: Path, content: bytes, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    command = [str(build.command_line), str(folder), "--option", "provider=cpu", "--json-lines", *arguments]
    return subprocess.run(command, input=content, capture_output=True, check=False)


def lines_of(output: bytes) -> list[Any]:
    """Return the records of an output. No reader may take a character within a line for its end."""
    text = output.decode()
    assert text.endswith("\n")
    assert len(text.splitlines()) == text.count("\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("task", RECORDS)
def test_the_answers_of_each_task_are_those_of_rpln_batch(built: Build, demo: Demo, tmp_path: Path, task: str) -> None:
    folder, options = demo(task), OPTIONS.get(task, {})
    records = [{"id": number, **record} for number, record in enumerate(RECORDS[task])]
    content = "".join(f"{json.dumps(record)}\n" for record in records).encode()
    (tmp_path / "in").write_bytes(content)
    run_corpus(folder, tmp_path / "in", tmp_path / "out", provider="cpu", options=options)

    words = [word for name, value in options.items() for word in ("--option", f"{name}={value}")]
    found = run(built, folder, content, *words)

    assert (found.returncode, found.stderr) == (0, b"")
    expected = lines_of((tmp_path / "out").read_bytes())
    assert len(expected) == len(records)
    for mine, theirs in zip(lines_of(found.stdout), expected, strict=True):
        assert list(mine) == list(theirs) == ["id", "answer"]
        assert_same(mine, theirs)


def test_texts_in_words_are_lists(built: Build, demo: Demo, tmp_path: Path) -> None:
    folder = demo("token-classification")
    content = b'{"text": ["It", "rained", "."]}\n{"text": "It rained."}\n'
    (tmp_path / "in").write_bytes(content)
    options = {"is_split_into_words": True}
    run_corpus(folder, tmp_path / "in", tmp_path / "out", provider="cpu", options=options, on_error="record")

    found = run(built, folder, content, "--option", "is_split_into_words=true", "--on-error", "record")

    first, second = lines_of((tmp_path / "out").read_bytes())
    assert_same(lines_of(found.stdout)[0], first)
    assert lines_of(found.stdout)[1]["error"].startswith("its 'text' is ")
    assert second["error"].startswith("its 'text' is ")


@pytest.mark.parametrize("window", [1, 3, 1024])
def test_damaged_lines_get_their_errors_where_rpln_batch_writes_them(
    built: Build, demo: Demo, tmp_path: Path, window: int
) -> None:
    folder = demo("text-classification")
    content = b"\n".join(line for line, _ in LINES)
    (tmp_path / "in").write_bytes(content)
    run_corpus(folder, tmp_path / "in", tmp_path / "out", provider="cpu", window=window, on_error="record")

    found = run(built, folder, content, "--on-error", "record", "--window", str(window))

    assert (found.returncode, found.stderr) == (0, b"")
    mine, theirs = lines_of(found.stdout), lines_of((tmp_path / "out").read_bytes())
    assert len(mine) == len(theirs) == len(LINES)
    for (_, error), one, other in zip(LINES, mine, theirs, strict=True):
        assert list(one) == list(other)
        if error is None:
            assert_same(one, other)
        else:
            assert one.pop("error").startswith(error)
            assert other.pop("error").startswith(error)
            assert one == other


def test_one_text_too_long_fails_no_other(built: Build, demo: Demo) -> None:
    lines = [{"text": "a " * (5000 if number == 3 else number + 1)} for number in range(8)]
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()

    found = lines_of(run(built, demo("text-classification"), content, "--on-error", "record").stdout)

    assert ["error" in record for record in found] == [number == 3 for number in range(8)]
    assert "tokens, the limit of this model is" in found[3]["error"]


def test_an_error_ends_the_run_behind_the_lines_before_it(built: Build, demo: Demo) -> None:
    content = b'{"text": "One."}\n{"text": "Two."}\n{"id": 3}\n{"text": "Four."}\n'

    found = run(built, demo("text-classification"), content)

    assert found.returncode == InputError.exit_code
    assert len(lines_of(found.stdout)) == 2
    assert found.stderr.decode() == (
        "Error: line 3: it has no field 'text'. Correct the line; or have such errors written into the output, with "
        "--on-error record (records_errors).\n"
    )


def test_nothing_gives_nothing(built: Build, demo: Demo) -> None:
    found = run(built, demo("text-classification"), b"")
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_lines_are_answered_before_the_input_ends(built: Build, demo: Demo) -> None:
    command = [str(built.command_line), str(demo("text-classification")), "--json-lines", "--window", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(b'{"id": %d, "text": "It rained."}\n' % number)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == number
        process.stdin.close()
    assert process.returncode == 0


def test_memory_holds_one_window(built: Build, demo: Demo) -> None:
    """Lines that are no items cost little time, so that there can be many bytes of them."""
    line, most = b"[" + b"7" * 900_000 + b"\n", 150

    def peak(lines: int) -> int:
        command = [str(built.command_line), str(demo("text-classification")), "--json-lines", "--on-error", "record"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            for _ in range(lines):
                process.stdin.write(line)
            process.stdin.close()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_maxrss * 1024

    assert peak(most) - peak(1) < most * len(line) / 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--json-lines", "A text."], "Leave texts and --field out."),
        (["--json-lines", "--field", "text=a"], "Leave texts and --field out."),
        (["--json-lines", "--on-error", "skip"], "expected stop or record."),
        (["--json-lines", "--window", "0"], "expected an integer of at least 1."),
        (["--json-lines", "--window", "-1"], "expected an integer of at least 1."),
        (["--json-lines", "--window"], "--window needs a value after it."),
        (["--window", "3"], "Add --json-lines, or leave them out."),
    ],
)
def test_options_that_make_no_sense_are_refused(built: Build, demo: Demo, arguments: list[str], says: str) -> None:
    command = [str(built.command_line), str(demo("text-classification")), *arguments]
    found = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (UsageError.exit_code, "")
    assert says in found.stderr
