"""What is quickly found out is refused before torch is imported, which takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from rpln_runtime.errors import InputError, ManifestError

COMMAND = """
import sys
from click.testing import CliRunner
from rpln_export.cli import {program}

result = CliRunner().invoke({program}, sys.argv[1:])
print(result.exit_code, "torch" in sys.modules, result.stderr)
"""


def refused(program: str, *arguments: object) -> tuple[str, str, str]:
    """Return the exit code, whether torch was imported, and the message of a command in a process of its own."""
    command = [sys.executable, "-c", COMMAND.format(program=program), *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    code, imported, message = done.stdout.split(maxsplit=2)
    return code, imported, " ".join(message.split())


@pytest.mark.parametrize(
    ("program", "arguments", "code", "says"),
    [
        ("rpln_command", ["eval", "{folder}", "missing.jsonl"], InputError.exit_code, "missing.jsonl is not a file"),
        ("rpln_command", ["eval", "{folder}", "x.jsonl", "--provider", "cpu"], 2, "Leave --provider out"),
        ("rpln_command", ["bench", "{folder}"], ManifestError.exit_code, "rpln.json"),
        ("rpln_command", ["report", "{folder}"], 2, "holds no report.json"),
        ("export_command", ["--int8", "--max-drop", "1"], 2, "name them with --eval"),
        ("export_command", ["--int8", "--eval", "missing.jsonl"], 2, "missing.jsonl is no file"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_torch_is_not_imported_for_it(program: str, arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    found, imported, message = refused(program, *(part.format(folder=tmp_path) for part in arguments))
    assert (found, imported) == (str(code), "False")
    assert says in message
