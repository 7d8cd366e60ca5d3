"""A command that is killed in the middle leaves nothing half-written, and whatever was there before as it was.

test_interrupted.py has the same for exports, and tests/runtime/corpus/test_kill.py for `rpln batch`.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from rpln_export.bundle import engines
from rpln_export.cli import INTERRUPTED, rpln_command
from rpln_graphs import save
from rpln_runtime.manifest import read_manifest
from tests.export.engines import make_bundle
from tests.export.progress_lines import without_progress
from tests.fairseq_files import MASKED_LM, VOCABULARY
from tests.tensorrt import NEEDS_TENSORRT_RTX

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

DRIVER = """
import importlib, sys, time

from rpln_export.cli import rpln_command
from rpln_graphs import save

def reported(function, *, after):
    def call(*args, **kwargs):
        done = function(*args, **kwargs) if after else None
        print("reached", flush=True)
        time.sleep(60)
        return done if after else function(*args, **kwargs)
    return call

place, name, moment, largest, *arguments = sys.argv[1:]
save.PROTOBUF_LIMIT = int(largest)
module, _, kind = place.partition(":")
owner = importlib.import_module(module)
owner = getattr(owner, kind) if kind else owner
setattr(owner, name, reported(getattr(owner, name), after=moment == "after"))
rpln_command(arguments)
"""
"""A process of `rpln` that says when it is before or after a step, and waits there to be killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a command.

    Attributes:
        place: the module of the function that takes the step, or its class behind a colon.
        name: the name of the function.
        moment: whether the process is killed "before" or "after" it.
        largest: the most bytes of weights in the file of a graph.
    """

    place: str
    name: str
    moment: str
    largest: int = save.PROTOBUF_LIMIT


def kill(step: Step, number: signal.Signals, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Send the signal to a command when it has come to a step, and return how it ended."""
    command = [sys.executable, "-c", DRIVER, step.place, step.name, step.moment, str(step.largest)]
    with subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reached\n", process.communicate()[1]
        process.send_signal(number)
        output, error = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output, error)


def assert_stopped(process: "subprocess.CompletedProcess[str]", number: signal.Signals) -> None:
    """Check that the process died of SIGKILL, or ended with one line after another signal."""
    if number is signal.SIGKILL:
        assert process.returncode == -number
    else:
        printed = without_progress(process.stderr)
        assert (process.returncode, printed.count("\n")) == (INTERRUPTED, 1)
        assert printed.startswith("Interrupted")
    assert process.stdout == ""


def rpln(*arguments: object) -> None:
    result = CliRunner().invoke(rpln_command, list(map(str, arguments)))
    assert result.exit_code == 0, result.output


def seen(folder: Path) -> dict[str, bytes]:
    """Return the files in a folder that are not hidden, with their contents."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command that is killed.

    Attributes:
        step: the step at which it is killed.
        arguments: a function that makes what it needs in a folder, and returns its arguments.
        whole: the files, beside those that were there, that may remain: they are whole.
    """

    step: Step
    arguments: Callable[[Path], list[object]]
    whole: tuple[str, ...] = ()


def optimize_sum(folder: Path) -> list[object]:
    """Return the arguments that rewrite a graph with one weight."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [100]) for name in "xz"]
    weight = onnx.numpy_helper.from_array(np.ones(100, np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["z"])], "sum", values[:1], values[1:], [weight]
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10),
        folder / "sum.onnx",
    )
    np.savez(folder / "feeds.npz", x=np.ones(100, np.float32))
    return ["optimize", folder / "sum.onnx", "-o", folder / "out.onnx", "--feeds", folder / "feeds.npz"]


def convert_fairseq(folder: Path) -> list[object]:
    """Return the arguments that convert a checkpoint of fairseq."""
    return ["convert", MASKED_LM, "-o", folder / "out", *VOCABULARY]


CASES = {
    "optimize, before the file": Case(
        step=Step(place="rpln_export.compare.optimize_file", name="save_graph", moment="before"),
        arguments=optimize_sum,
    ),
    "optimize, before it moves": Case(
        step=Step(place="rpln_export.compare.optimize_file", name="save_graph", moment="after"),
        arguments=optimize_sum,
    ),
    "optimize, between weights and graph": Case(
        step=Step(place="pathlib:Path", name="rename", moment="after", largest=0),
        arguments=optimize_sum,
        whole=("out.onnx.data",),
    ),
    "convert, before the weights": Case(
        step=Step(place="rpln_model.network:Network", name="save_pretrained", moment="before"),
        arguments=convert_fairseq,
    ),
    "convert, between weights and tokenizer": Case(
        step=Step(place="rpln_export.checkpoint.conversion", name="_save_vocabulary", moment="before"),
        arguments=convert_fairseq,
    ),
}


QUICK = {("convert, before the weights", signal.SIGTERM), ("convert, between weights and tokenizer", signal.SIGKILL)}
"""Those of `rpln convert` that `make test` sends, because a process of torch takes seconds to start."""


@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param(*case, marks=pytest.mark.full if case[0].startswith("convert") and case not in QUICK else ())
        for case in product(CASES, SIGNALS)
    ],
    ids=lambda part: part if isinstance(part, str) else part.name,
)
def test_a_killed_command_leaves_nothing_half_written(tmp_path: Path, name: str, number: signal.Signals) -> None:
    case = CASES[name]
    arguments = case.arguments(tmp_path)
    before = seen(tmp_path)

    assert_stopped(kill(case.step, number, *arguments), number)

    left = seen(tmp_path)
    killed = number is signal.SIGKILL
    assert left.keys() - before.keys() == set(case.whole if killed else ())
    assert left.items() >= before.items()
    assert len(hidden(tmp_path)) == (1 if killed else 0)
    for path in left.keys() - before.keys():
        (tmp_path / path).unlink()
    # The same command cleans up and does its work.
    rpln(*arguments)
    assert hidden(tmp_path) == []
    assert seen(tmp_path).keys() > before.keys()


# -- engines and their timings -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with an engine."""
    folder = make_bundle(tmp_path_factory.mktemp("compiled") / "bundle")
    rpln("build", folder, "--engine", "tensorrt-rtx")
    return folder


@NEEDS_TENSORRT_RTX
@pytest.mark.parametrize(
    ("name", "moment", "number"),
    [
        ("write_engine", "before", signal.SIGTERM),  # the plan is complete
        ("write_engine", "after", signal.SIGINT),  # all new files are complete
        ("write_manifest", "after", signal.SIGKILL),  # the older engine is about to be replaced
    ],
)
def test_a_killed_build_leaves_a_whole_bundle(
    compiled: Path, tmp_path: Path, name: str, moment: str, number: signal.Signals
) -> None:
    folder = Path(shutil.copytree(compiled, tmp_path / "bundle"))
    before = seen(folder)
    arguments = ["build", folder, "--engine", "tensorrt-rtx", "--profile", "sequence=8"]
    step = Step(place="rpln_export.bundle.engines", name=name, moment=moment)

    assert_stopped(kill(step, number, *arguments), number)

    read_manifest(folder)
    if number is not signal.SIGKILL:
        assert (seen(folder), hidden(folder)) == (before, [])
    rpln(*arguments)
    assert hidden(folder) == []
    (engine,) = engines.engines_of_bundle(folder)
    assert str(engine.profiles[0]["sequence"]) == "8:8:8"


KEEP = """
import sys, time
from pathlib import Path

from rpln_export.bundle.engines import _keep

def waiting(*_):
    print("reached", flush=True)
    time.sleep(60)

Path.replace = waiting
_keep(b"new", Path(sys.argv[1]))
"""


def test_timings_that_a_killed_build_was_about_to_keep_are_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "sm89.timings"
    engines._keep(b"old", path)
    with subprocess.Popen([sys.executable, "-c", KEEP, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reached\n"
        process.kill()
    assert path.read_bytes() == b"old"
    engines._keep(b"newer", path)
    assert path.read_bytes() == b"newer"
    assert list(path.parent.iterdir()) == [path]
