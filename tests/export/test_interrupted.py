"""An export that is stopped, by a signal or by a full disk, publishes nothing and damages nothing."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from click.testing import CliRunner

from rpln_export import pipeline
from rpln_export.cli import export_command
from rpln_export.destination import published
from rpln_export.errors import DestinationError
from rpln_graphs.errors import GraphError
from rpln_graphs.save import save_graphs
from rpln_runtime import load
from tests.export.conftest import Export

TASK = "token-classification"
INTERRUPTED = 130
AS_TRACED = ("--optimize", "none")

# A process that reports when it is in the step and then waits there for the signal, except in the trace itself.
# For the other steps, the trace is read from an fp32 bundle without any form, whose graph is the trace.
DRIVER = """
import sys, time
import onnx_ir as ir
from rpln_export import cli, pipeline
from rpln_export.validation import proof

def reached(function, seconds):
    def call(*args, **kwargs):
        print("reached", flush=True)
        time.sleep(seconds)
        return function(*args, **kwargs)
    return call

step, traced, *arguments = sys.argv[1:]
if step == "trace":
    pipeline.trace_model = reached(pipeline.trace_model, 0)
else:
    pipeline.trace_model = lambda *args, **kwargs: ir.load(traced)
if step == "save":
    pipeline.write_bundle_files = reached(pipeline.write_bundle_files, 60)
if step == "validate":
    proof.compare = reached(proof.compare, 60)
cli.export_command(arguments)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def older(exported: Callable[..., Export], tmp_path: Path) -> Path:
    """Return an older bundle in a folder of its own."""
    folder = tmp_path / "bundles" / "out"
    shutil.copytree(exported(TASK).folder, folder)
    return folder


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
STEPS = ("trace", "save", "validate")
QUICK = {
    (signal.SIGINT, "trace"),
    (signal.SIGTERM, "save"),
    (signal.SIGHUP, "validate"),
    (signal.SIGKILL, "save"),
    (signal.SIGKILL, "validate"),
}
"""Those that `make test` sends: each signal, each step."""


@pytest.mark.parametrize(
    ("number", "step"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.full) for case in product(SIGNALS, STEPS)],
    ids=lambda part: part if isinstance(part, str) else part.name,
)
@pytest.mark.usefixtures("traced_once")
def test_a_signal_leaves_the_older_bundle_and_nothing_that_lasts(
    exported: Callable[..., Export], older: Path, tmp_path: Path, number: signal.Signals, step: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    before = contents(older.parent)
    checkpoint = str(exported(TASK).checkpoint)
    traced = str(exported(TASK, *AS_TRACED).folder / "model.onnx")
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, step, traced, checkpoint, "-o", str(older), *AS_TRACED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reached\n"
    time.sleep(0.5)  # into torch's own code, or into the pause: a signal within a finalizer would be lost
    process.send_signal(number)
    output, error = process.communicate(timeout=60)
    assert output == ""
    if number is signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert (process.returncode, error) == (INTERRUPTED, "Interrupted: nothing was published.\n")
        assert contents(older.parent) == before
    load(older)
    assert contents(older) == before_within(before, older.name)

    # Another export cleans up after the killed one, which could not.
    assert {path.name for path in temporary.iterdir()} <= {".ses"}  # ONNX Runtime's, one a machine
    left = [path.name for path in older.parent.iterdir() if path != older]
    assert len(left) == (1 if number is signal.SIGKILL and step != "trace" else 0)
    if left:
        assert CliRunner().invoke(export_command, [checkpoint, "-o", str(older)]).exit_code == 0
        assert [path.name for path in older.parent.iterdir()] == [older.name]


def before_within(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {name.removeprefix(f"{folder}/"): content for name, content in files.items()}


BUNDLE = (
    "model.onnx",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "report.html",
    "report.json",
    "report.md",
    "rpln.json",
)


def test_these_are_all_files_of_a_bundle(exported: Callable[..., Export]) -> None:
    assert {path.name for path in exported(TASK).folder.iterdir()} == set(BUNDLE)


@pytest.mark.parametrize("name", BUNDLE)
@pytest.mark.usefixtures("traced_once")
def test_a_disk_that_is_full_at_any_file_leaves_the_older_bundle(
    exported: Callable[..., Export], older: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = contents(older.parent)
    written = {"rpln.json": ".rpln.json"}.get(name, name)  # the manifest gets its name when it is complete

    @contextlib.contextmanager
    def published_where_full(folder: Path) -> Iterator[Path]:
        with published(folder) as partial:
            if name != "model.onnx":
                (partial / written).symlink_to("/dev/full")
            yield partial

    def save_where_full(models: Mapping[str, ir.Model], folder: Path, **_: Any) -> None:
        # Graphs of a form that was refused are removed before others are saved.
        if name == "model.onnx":
            (folder / name).symlink_to("/dev/full")
        save_graphs(models, folder)

    monkeypatch.setattr(pipeline, "published", published_where_full)
    monkeypatch.setattr(pipeline, "save_graphs", save_where_full)
    result = CliRunner().invoke(export_command, [str(exported(TASK).checkpoint), "-o", str(older)])
    assert result.exit_code == DestinationError.exit_code, result.output
    assert os.strerror(errno.ENOSPC) in result.stderr
    assert f"{older} was left as it was; make room" in result.stderr
    assert contents(older.parent) == before


@pytest.mark.usefixtures("traced_once")
def test_a_full_folder_for_temporary_files_is_named(
    exported: Callable[..., Export], older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(older.parent)

    def full(model: ir.Model, path: Path, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(ir, "save", full)
    result = CliRunner().invoke(export_command, [str(exported(TASK).checkpoint), "--fp16", "-o", str(older)])
    assert result.exit_code == GraphError.exit_code
    assert f"could not be written to {older.parent}" in result.stderr
    assert "temporary files lie beside it" in result.stderr
    assert contents(older.parent) == before


@pytest.mark.usefixtures("traced_once")
def test_two_exports_to_one_destination_at_once_leave_one_whole_bundle(
    exported: Callable[..., Export], older: Path, tmp_path: Path
) -> None:
    arguments = [str(exported(TASK).checkpoint), "-o", str(older)]
    traced = str(exported(TASK, *AS_TRACED).folder / "model.onnx")
    command = [sys.executable, "-c", DRIVER, "no step", traced, *arguments, *AS_TRACED, "--json"]
    first, second = (subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2))
    for process in (first, second):
        _, error = process.communicate(timeout=120)
        assert (process.returncode, error) == (0, b"")
    load(older)
    assert [path.name for path in older.parent.iterdir()] == [older.name]
