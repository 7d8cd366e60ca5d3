"""Checkpoints that the other line of transformers wrote (tests/data) are exported as this one's own are."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from rpln_export.cli import export_command
from rpln_runtime import load
from tests.export.checkpoints import ENCODER_TASKS
from tests.export.references import assert_close, assert_equal, reference
from tests.model.lines import TRANSFORMERS_4

OTHER = Path(__file__).resolve().parent.parent / "data" / ("checkpoints-5x" if TRANSFORMERS_4 else "checkpoints-4x")


@pytest.mark.parametrize("task", ENCODER_TASKS)
@pytest.mark.parametrize(("options", "compare"), [([], assert_equal), (["--fp16"], assert_close)], ids=["fp32", "fp16"])
@pytest.mark.usefixtures("traced_once")
def test_it_is_exported_and_equal(tmp_path: Path, task: str, options: list[str], compare: Callable[..., None]) -> None:
    source, folder = OTHER / task, tmp_path / "bundle"
    arguments = [str(source), "--tokenizer", str(OTHER / "tokenizer"), "-o", str(folder), *options]
    result = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    compare(reference(source, task), task, load(folder).run)
