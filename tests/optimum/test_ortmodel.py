"""Bundles load in Optimum's ORTModelFor* as they are, and give there what eager torch gives."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForMaskedLM,
    ORTModelForMultipleChoice,
    ORTModelForQuestionAnswering,
    ORTModelForSequenceClassification,
    ORTModelForTokenClassification,
)
from transformers import AutoTokenizer, pipeline

from rpln_runtime import load
from rpln_runtime.manifest import read_manifest
from rpln_runtime.tasks import TASKS
from tests.export.checkpoints import ENCODER_TASKS
from tests.export.conftest import Export
from tests.export.progress_lines import without_progress
from tests.export.references import Feeds, Outputs, assert_close, assert_equal, batches, reference
from tests.optimum.conftest import MADE_BY_5X

ROOT = Path(__file__).resolve().parent.parent.parent

CLASSES = {
    "feature-extraction": ORTModelForFeatureExtraction,
    "fill-mask": ORTModelForMaskedLM,
    "text-classification": ORTModelForSequenceClassification,
    "token-classification": ORTModelForTokenClassification,
    "question-answering": ORTModelForQuestionAnswering,
    "multiple-choice": ORTModelForMultipleChoice,
}


def run_optimum(folder: Path, task: str) -> Callable[[Feeds], Outputs]:
    return run_model(CLASSES[task].from_pretrained(folder), task)


def run_model(model: Any, task: str) -> Callable[[Feeds], Outputs]:
    """Return a function that gives the outputs of one of Optimum's models."""

    def run(feeds: Feeds) -> Outputs:
        outputs = model(**{name: torch.from_numpy(array) for name, array in feeds.items()})
        return {tensor.name: np.asarray(outputs[tensor.name]) for tensor in TASKS[task].outputs}

    return run


def test_every_encoder_task_has_its_class() -> None:
    assert tuple(CLASSES) == ENCODER_TASKS


@pytest.mark.parametrize("task", ENCODER_TASKS)
@pytest.mark.parametrize("line", ["4.57", "5.x"])
@pytest.mark.parametrize(("precision", "compare"), [("fp32", assert_equal), ("fp16", assert_close)])
def test_optimum_computes_what_torch_computes(
    exported: Callable[[str, str, str], Export], line: str, task: str, precision: str, compare: Callable[..., None]
) -> None:
    export = exported(line, task, precision)
    compare(reference(export.checkpoint, task), task, run_optimum(export.folder, task))


def test_optimum_computes_what_the_runtime_computes_in_int8(exported: Callable[..., Export]) -> None:
    task = "token-classification"
    export = exported("4.57", task, "int8", "--min-agreement", "0")
    model = reference(export.checkpoint, task)
    run, expected = run_optimum(export.folder, task), load(export.folder, provider="cpu").run
    for feeds in batches(task, model.config):
        np.testing.assert_allclose(run(feeds)["logits"], expected(feeds)["logits"], rtol=0, atol=1e-5)


def test_a_pipeline_of_transformers_runs_on_a_bundle(exported: Callable[[str, str, str], Export]) -> None:
    export = exported("4.57", "token-classification", "fp32")
    answers: list[Any] = [
        pipeline("token-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))(
            "The dog barked in London."
        )
        for model, folder in (
            (ORTModelForTokenClassification.from_pretrained(export.folder), export.folder),
            (reference(export.checkpoint, "token-classification"), export.checkpoint),
        )
    ]
    bundle, checkpoint = ([{**row, "score": round(float(row["score"]), 4)} for row in answer] for answer in answers)
    assert bundle == checkpoint
    assert len(bundle) > 5


MAIN = Path(os.environ.get("RPLN_MAIN_PYTHON", ROOT / ".venv/bin/python"))


@pytest.mark.skipif(not MAIN.exists(), reason=f"no environment with transformers 5.x: {MAIN} does not exist")
def test_a_bundle_written_by_the_main_environment_loads_in_this_one(tmp_path: Path) -> None:
    source = MADE_BY_5X / "fill-mask"
    command = [str(MAIN), "-c", "from rpln_export.cli import export_command; export_command()"]
    arguments = [str(source), "--tokenizer", str(MADE_BY_5X / "tokenizer"), "-o", str(tmp_path / "bundle")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert read_manifest(tmp_path / "bundle").versions["transformers"].startswith("5.")
    assert_equal(reference(source, "fill-mask"), "fill-mask", run_optimum(tmp_path / "bundle", "fill-mask"))
    text = "The dog <mask> in London."
    own, written = (
        AutoTokenizer.from_pretrained(folder)(text) for folder in (MADE_BY_5X / "tokenizer", tmp_path / "bundle")
    )
    assert own.input_ids == written.input_ids
