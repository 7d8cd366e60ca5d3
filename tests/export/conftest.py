"""Checkpoints and exports that many tests read. Each is made once, when the first test asks for it."""

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner, Result

from rpln_export import pipeline
from rpln_export.cli import export_command
from rpln_export.commands.show import progress
from rpln_export.forms.choice import Measurements, measure_forms
from rpln_export.plan import engines as engine_plans
from rpln_graphs.recipes import Rewrite, apply_recipe_together
from rpln_graphs.trace import trace_model
from tests.export.checkpoints import make_checkpoint
from tests.export.sabotage import Sabotage

Traces = dict[Any, onnx.ModelProto]
Sabotaged = Callable[..., Result]

# torch logs its trace for its own tools: thousands of empty lines in the report of a failing test.
logging.getLogger("torch.__trace").propagate = False


@pytest.fixture(scope="session", autouse=True)
def no_lines_of_progress() -> None:
    """Let commands write no lines of progress: on a busy machine any may, to a stderr that tests compare."""
    progress.LINE_SECONDS = 1e6  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class Export:
    """A finished `rpln-export`: the checkpoint, the folder of the bundle, and the result of the command."""

    checkpoint: Path
    folder: Path
    result: Result


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _unmeasured() -> Iterator[None]:
    """Let exports choose a form without measuring.

    Hundreds of tests export, on busy machines, and do not depend on speed.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        do_not_measure(monkeypatch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_engines() -> Iterator[None]:
    """Let exports build no engine unless a test asks for one by name."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        do_not_compile(monkeypatch)
        yield


def do_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let --engine auto find no TensorRT installed."""
    monkeypatch.setattr(engine_plans, "_installed", lambda: None)


def do_not_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every export take the default form of its target."""
    monkeypatch.setattr(pipeline, "measure_forms", lambda *_: Measurements(why_not="not in tests"))


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exports of a test measure after all."""
    monkeypatch.setattr(pipeline, "measure_forms", measure_forms)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives a tiny checkpoint for a task. Tests that alter one make their own."""
    return functools.cache(lambda task: make_checkpoint(tmp_path_factory.mktemp(task), task))


@pytest.fixture(scope="session")
def exported(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Export]:
    """Return a function that exports the checkpoint of a task with options of the command line into a new folder."""

    @functools.cache
    def export(task: str, *options: str) -> Export:
        folder = tmp_path_factory.mktemp("bundles") / "bundle"
        arguments = [str(checkpoint(task)), "-o", str(folder), *options]
        result = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return Export(checkpoint=checkpoint(task), folder=folder, result=result)

    return export


@pytest.fixture(scope="session")
def _traces() -> Traces:
    return {}


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch, _traces: Traces) -> None:
    """Let all exports of a checkpoint share one trace, which takes most of the time, for tests of what follows it."""
    share_traces(monkeypatch, _traces)


def share_traces(monkeypatch: pytest.MonkeyPatch, traces: Traces) -> None:
    """Let exports take their trace from `traces` if the same model was traced before."""

    def trace_once(model: Any, inputs: Any, outputs: Any, *, opset: int, trace: str) -> ir.Model:
        weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
        key = (type(model), hash(weights), model.config.to_json_string(), inputs, outputs, opset, trace)
        if key not in traces:
            traces[key] = ir.to_proto(trace_model(model, inputs, outputs, opset=opset, trace=trace))
        return ir.from_proto(traces[key])

    monkeypatch.setattr(pipeline, "trace_model", trace_once)


@pytest.fixture
def sabotaged(checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sabotaged:
    """Return a function that exports a checkpoint to `tmp_path`/out, and sabotages the graphs after the recipe."""

    def export(sabotage: Sabotage, source: str | Path, *options: str) -> Result:
        def apply_and_sabotage(rewrites: list[Rewrite], *args: Any, **kwargs: Any) -> None:
            apply_recipe_together(rewrites, *args, **kwargs)
            for rewrite in rewrites:
                sabotage(rewrite.model)

        monkeypatch.setattr(pipeline, "apply_recipe_together", apply_and_sabotage)
        folder = source if isinstance(source, Path) else checkpoint(source)
        return CliRunner().invoke(export_command, [str(folder), "-o", str(tmp_path / "out"), *options])

    return export
