"""Checkpoints that the other version of transformers wrote (tests/data) are exported as those of this one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rpln_export.cli import export_command
from rpln_runtime import load
from rpln_runtime.manifest import read_manifest
from tests.export.checkpoints import ENCODER_TASKS
from tests.export.references import FP32_DIFFERENCE, PAD, assert_close, assert_equal, reference
from tests.export.stepping import logits_of_steps, make_texts, whole_logits
from tests.model.lines import TRANSFORMERS_4

CHUNKS = (5, 1, 3)
OTHER = Path(__file__).parents[2] / "data" / ("checkpoints-5x" if TRANSFORMERS_4 else "checkpoints-4x")


@pytest.mark.parametrize("task", ENCODER_TASKS)
@pytest.mark.parametrize(("options", "compare"), [([], assert_equal), (["--fp16"], assert_close)], ids=["fp32", "fp16"])
@pytest.mark.usefixtures("traced_once")
def test_it_is_exported_and_equal(tmp_path: Path, task: str, options: list[str], compare: Callable[..., None]) -> None:
    source, folder = OTHER / task, tmp_path / "bundle"
    export(source, folder, *options)
    compare(reference(source, task), task, load(folder).run)


@pytest.mark.parametrize("task", ["text-generation", "text2text-generation"])
@pytest.mark.usefixtures("traced_once")
def test_a_decoder_is_exported_and_equal_step_by_step(tmp_path: Path, task: str) -> None:
    source, folder = OTHER / task, tmp_path / "bundle"
    export(source, folder)
    model = reference(source, task)
    decoder, encoder = (getattr(model.config, "decoder", model.config), getattr(model.config, "encoder", None))
    for text in make_texts(decoder, encoder=encoder):
        found = logits_of_steps(folder, "with-past", text, CHUNKS)
        assert np.abs(found - whole_logits(model, text, CHUNKS)).max() <= FP32_DIFFERENCE
    generation = read_manifest(folder).generation
    assert generation is not None
    assert (generation.eos_token_ids, generation.pad_token_id) == ((2,), PAD)
    assert generation.start_token_id == (None if encoder is None else 0)


@pytest.mark.parametrize("task", ["text-generation", "text2text-generation"])
@pytest.mark.usefixtures("traced_once")
def test_a_decoder_is_proven_in_fp16(tmp_path: Path, task: str) -> None:
    export(OTHER / task, tmp_path / "bundle", "--fp16")
    assert read_manifest(tmp_path / "bundle").recipe == "fp16"


def export(source: Path, folder: Path, *options: str) -> None:
    arguments = [str(source), "--tokenizer", str(OTHER / "tokenizer"), "-o", str(folder), *options]
    result = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
