"""Bundles for Optimum: of checkpoints that transformers 4.57 makes here, and of those that 5 made (tests/data)."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from rpln_export.cli import export_command
from tests.export.checkpoints import make_checkpoint
from tests.export.conftest import Export, do_not_measure, share_traces
from tests.export.progress_lines import without_progress

MADE_BY_5X = Path(__file__).resolve().parent.parent / "data" / "checkpoints-5x"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Export]]:
    """Return a function that exports a checkpoint: by the version that made it, task, precision and options."""
    made = functools.cache(lambda task: make_checkpoint(tmp_path_factory.mktemp(task), task))

    @functools.cache
    def export(line: str, task: str, precision: str, *more: str) -> Export:
        folder = tmp_path_factory.mktemp("bundles") / "bundle"
        source = made(task) if line == "4.57" else MADE_BY_5X / task
        options = [*more] if precision == "fp32" else [f"--{precision}", *more]
        options += [] if line == "4.57" else ["--tokenizer", str(MADE_BY_5X / "tokenizer")]
        result = CliRunner().invoke(export_command, [str(source), "-o", str(folder), *options], catch_exceptions=False)
        assert (result.exit_code, without_progress(result.stderr)) == (0, ""), result.output
        return Export(checkpoint=source, folder=folder, result=result)

    with pytest.MonkeyPatch.context() as monkeypatch:
        share_traces(monkeypatch, {})
        do_not_measure(monkeypatch)
        yield export
