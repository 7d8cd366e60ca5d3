"""The example program, the C interface as another language calls it, and a project that uses the installed package."""

import ctypes
import json
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click import UsageError

from rpln_export.bundle.pages.running import snippets
from rpln_runtime import InputError, pipeline
from rpln_runtime.command_line import UNPRINTED
from rpln_runtime.limits import DOCUMENTS, OTHER
from rpln_runtime.tasks import TASKS
from tests.cpp.building import HEADERS, ROOT, Build
from tests.cpp.test_pipelines import assert_same

Demo = Callable[..., Path]
SENTENCE = "The old man walked to the boat."


def run(build: Build, *arguments: object, lines: str = "") -> "subprocess.CompletedProcess[str]":
    command = [str(build.command_line), *map(str, arguments)]
    return subprocess.run(command, input=lines, capture_output=True, text=True, check=False)


def test_the_program_answers_texts_fields_and_lines(built: Build, demo: Demo) -> None:
    tagger, chooser = demo("token-classification"), demo("multiple-choice")
    tag = pipeline(tagger, provider="cpu", aggregation_strategy="simple")
    option = ["--option", "aggregation_strategy=simple"]
    found = run(built, tagger, *option, SENTENCE, "Another.")
    assert (found.returncode, found.stderr) == (0, "")
    for line, text in zip(found.stdout.splitlines(), (SENTENCE, "Another."), strict=True):
        assert_same(json.loads(line), tag(text))
    # Lines as an editor of Windows writes them: behind a byte order mark, and with two characters at their ends.
    found = run(built, tagger, *option, lines=f'\ufeff{SENTENCE}\r\n"A \\u00e9."\n["One.", "Two."]\r\n')
    for line, item in zip(found.stdout.splitlines(), (SENTENCE, "A é.", ["One.", "Two."]), strict=True):
        assert_same(json.loads(line), tag(item))
    choices = ["He slept.", "He sailed."]
    fields = [f"choices={choice}" for choice in choices]
    found = run(built, chooser, *(word for field in [f"prompt={SENTENCE}", *fields] for word in ("--field", field)))
    assert_same(json.loads(found.stdout), pipeline(chooser, provider="cpu")(prompt=SENTENCE, choices=choices))


def test_an_unknown_option_is_no_text(built: Build, demo: Demo) -> None:
    tagger = demo("token-classification")
    found = run(built, tagger, "--provider", "cpu", SENTENCE)
    assert (found.returncode, found.stdout) == (UsageError.exit_code, "")
    assert "unknown option --provider: expected --option, --field, --json-lines" in found.stderr
    assert run(built, tagger, "--option", "top_k").returncode == UsageError.exit_code
    found = run(built, tagger, "--", "--provider")
    assert (found.returncode, found.stderr) == (0, "")
    assert_same(json.loads(found.stdout), pipeline(tagger, provider="cpu")("--provider"))


def test_help_names_every_option(built: Build, demo: Demo) -> None:
    for arguments in (["--help"], [demo("token-classification"), SENTENCE, "--help"]):
        found = run(built, *arguments)
        assert (found.returncode, found.stderr) == (0, "")
        assert found.stdout.startswith("usage: rpln-cli FOLDER ")
        assert {"--option", "--field", "--json-lines", "--on-error", "--window", "--", "--help"} <= set(
            found.stdout.split()
        )


def test_the_program_returns_the_exit_code_of_an_error(built: Build, demo: Demo, tmp_path: Path) -> None:
    assert run(built).returncode == 2
    found = run(built, demo("token-classification") / "model.onnx", "text")
    assert found.returncode == 4
    assert "model.onnx is a file: expected a bundle, which is a folder. Name the folder that it is in: " in found.stderr
    assert found.stderr.endswith(f": {demo('token-classification')}\n")
    found = run(built, tmp_path, "text")
    assert found.returncode == 4
    assert found.stderr.startswith("Error: ")
    assert str(tmp_path) in found.stderr
    assert "rpln.json" in found.stderr
    assert run(built, demo("token-classification"), "--option", "strid=1", "text").returncode == 3
    assert run(built, demo("token-classification"), "--option", "provider=abacus", "text").returncode == 5


def test_an_error_on_standard_input_names_the_line(built: Build, demo: Demo) -> None:
    tagger = demo("token-classification")
    found = run(built, tagger, lines='One.\n{"text": "Two."}\nThree.\n')
    assert (found.returncode, len(found.stdout.splitlines())) == (InputError.exit_code, 1)
    assert found.stderr.startswith("Error: line 2: ")
    assert "A line that is a JSON list or object is read as such." in found.stderr
    assert "add --json-lines" in found.stderr
    # Lines that are JSON and no list or object are texts.
    found = run(built, tagger, lines="5\ntrue\n")
    assert (found.returncode, len(found.stdout.splitlines())) == (0, 2)


@pytest.mark.parametrize("arguments", [[], ["--json-lines"], ["A text."]])
def test_a_full_disk_as_stdout_is_an_error(built: Build, demo: Demo, arguments: list[str]) -> None:
    command = [str(built.command_line), str(demo("text-classification")), *arguments]
    with Path("/dev/full").open("wb") as full:
        found = subprocess.run(command, input=b'{"text": "One."}\n', stdout=full, stderr=subprocess.PIPE, check=False)
    assert found.returncode == UNPRINTED
    assert "cannot be written" in found.stderr.decode()
    assert "Free space there, or send" in found.stderr.decode()


def test_a_line_without_end_is_refused(built: Build, demo: Demo) -> None:
    command = [str(built.command_line), str(demo("text-classification"))]
    with Path("/dev/zero").open("rb") as zeros:
        found = subprocess.run(command, stdin=zeros, capture_output=True, check=False)
    assert found.returncode == InputError.exit_code
    assert found.stderr.decode() == f"Error: line 1 has more than {DOCUMENTS[OTHER].size} bytes. Split it.\n"


@pytest.mark.parametrize("threads", [0, 1025, 2**32 + 1, 2**63])
def test_more_threads_than_a_machine_makes_are_refused(built: Build, demo: Demo, threads: int) -> None:
    found = run(built, demo("text-classification"), "--option", f"threads={threads}", "A text.")
    assert found.returncode == InputError.exit_code
    assert f"threads is {threads}, expected an integer, 1 to 1024." in found.stderr


def test_bytes_that_are_not_utf8_are_named_by_their_place(built: Build, demo: Demo) -> None:
    tagger = demo("token-classification")
    advice = "counted from 0). Convert the input, for example with iconv -f latin1 -t utf-8.\n"
    command: list[str | bytes] = [str(built.command_line), str(tagger)]
    lines = b"One.\nLe caf" + b"\xe9.\n"
    found = subprocess.run(command, input=lines, capture_output=True, check=False)
    assert (found.returncode, len(found.stdout.splitlines())) == (InputError.exit_code, 1)
    assert found.stderr.decode() == f"Error: line 2 is not UTF-8 (byte 6, {advice}"
    found = subprocess.run([*command, "One.", b"\xe9"], capture_output=True, check=False)
    assert (found.returncode, found.stdout) == (InputError.exit_code, b"")
    assert found.stderr.decode() == f"Error: text 2 is not UTF-8 (byte 0, {advice}"
    found = subprocess.run([*command, "--field", b"text=\xe9"], capture_output=True, check=False)
    assert found.stderr.decode() == f"Error: the field text is not UTF-8 (byte 0, {advice}"


class Library:
    """The C interface of rpln.h, called through ctypes as any language with a foreign function interface would."""

    def __init__(self, path: Path) -> None:
        self.functions = ctypes.CDLL(str(path))
        self.functions.rpln_last_error.restype = ctypes.c_char_p
        self.functions.rpln_free.argtypes = [ctypes.c_void_p]
        self.functions.rpln_close.argtypes = [ctypes.c_void_p]
        self.functions.rpln_run.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]

    def open(self, folder: Path | None, options: bytes | None = None) -> tuple[int, ctypes.c_void_p]:
        handle = ctypes.c_void_p()
        path = None if folder is None else str(folder).encode()
        return self.functions.rpln_open(path, options, ctypes.byref(handle)), handle

    def run(self, handle: ctypes.c_void_p, inputs: bytes | None, options: bytes | None = None) -> tuple[int, Any]:
        answer = ctypes.c_void_p()
        status = self.functions.rpln_run(handle, inputs, options, ctypes.byref(answer))
        if status:
            assert answer.value is None
            return status, self.functions.rpln_last_error().decode()
        assert answer.value is not None
        text = ctypes.string_at(answer.value)
        self.functions.rpln_free(answer)
        return status, json.loads(text)


@pytest.fixture
def library(built: Build) -> Library:
    return Library(built.library)


def test_the_c_interface_answers_from_many_threads(library: Library, demo: Demo) -> None:
    folder = demo("token-classification")
    expected = pipeline(folder, provider="cpu")(SENTENCE, aggregation_strategy="simple")
    status, handle = library.open(folder, b'{"provider": "cpu", "threads": 1}')
    assert status == 0
    answers: list[tuple[int, Any]] = []

    def ask() -> None:
        text = json.dumps(SENTENCE).encode()
        answers.extend(library.run(handle, text, b'{"aggregation_strategy": "simple"}') for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 40
    for status, answer in answers:
        assert status == 0
        assert_same(answer, expected)
    library.functions.rpln_close(handle)


def test_the_c_interface_returns_a_status_and_says_why(library: Library, demo: Demo, tmp_path: Path) -> None:
    status, handle = library.open(tmp_path)
    assert (status, handle.value) == (4, None)
    assert "rpln.json" in library.functions.rpln_last_error().decode()
    folder = demo("token-classification")
    assert library.open(folder, b'{"threads": 0}')[0] == 3
    assert library.open(folder, b"[]")[0] == 3
    assert library.open(folder, b'{"stride": -1}')[0] == 3
    assert library.open(folder, b'{"provider": "abacus"}')[0] == 5
    status, handle = library.open(folder)
    assert status == 0
    assert library.run(handle, b"no JSON")[0] == 3
    status, message = library.run(handle, b"5")
    assert status == 3
    assert "inputs" in message
    assert library.run(handle, b'"a"', b'{"strid": 3}')[0] == 3
    assert library.run(handle, b'"\xff"')[0] == 3
    assert library.run(handle, None) == (3, "inputs is NULL. Pass a text, an object or a list, as JSON.")
    assert library.run(handle, b'"fine"')[0] == 0
    assert library.functions.rpln_last_error() == b""
    library.functions.rpln_close(handle)


def test_the_c_interface_refuses_null(library: Library, tmp_path: Path) -> None:
    """A caller that looked at no status has no pipeline, and is told so."""
    assert library.open(None)[0] == 3
    assert library.functions.rpln_last_error() == b"folder is NULL. Pass the path of a bundle."
    assert library.functions.rpln_open(str(tmp_path).encode(), None, None) == 3
    assert library.functions.rpln_last_error().startswith(b"pipeline is NULL. ")
    _, handle = library.open(tmp_path)
    expected = "pipeline is NULL. Open one with rpln_open, and go on only where it returns RPLN_OK."
    assert library.run(handle, b'"a"') == (3, expected)
    assert library.functions.rpln_run(handle, b'"a"', None, None) == 3
    assert library.functions.rpln_last_error().startswith(b"answer is NULL. ")
    library.functions.rpln_free(None)
    library.functions.rpln_close(None)


def check_compiles(built: Build, source: Path) -> None:
    includes = ["-I", str(built.prefix / "include"), "-isystem", str(HEADERS)]
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command = ["g++", *flags, *includes, str(source)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_the_examples_of_the_documentation_compile(built: Build, tmp_path: Path) -> None:
    pages = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("cpp.md", "tutorials/cpp.md")]
    blocks = [block for page in pages for block in re.findall(r"^```cpp\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    assert len(blocks) == 5
    blocks[-1] = blocks[-1].replace("int main(", "int main_of_tutorial(")
    source = tmp_path / "examples.cpp"
    source.write_text("\n".join(blocks), encoding="utf-8")
    check_compiles(built, source)


def test_the_code_that_reports_offer_compiles(built: Build, tmp_path: Path) -> None:
    """Each task's program becomes a function of its own, so that one compilation reads them all."""
    programs = [
        next(way.code for way in snippets(task, 'a "bundle"\\') if way.title == "C++").replace(
            "int main()", f"void main_{number}()"
        )
        for number, task in enumerate(TASKS)
    ]
    source = tmp_path / "snippets.cpp"
    source.write_text("\n".join(programs), encoding="utf-8")
    check_compiles(built, source)
