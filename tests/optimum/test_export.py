"""Optimum's own exporter takes roberta-prelayernorm once rpln_export.optimum is imported, and its graphs are right.

Each head of the embedded checkpoints is compared with eager torch, also with padding on the left and in between.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optimum.exporters.onnx import main_export
from optimum.exporters.tasks import TasksManager
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM

from rpln_export.optimum import register_rpln_export
from rpln_export.optimum.configs import MODEL_TYPE
from rpln_export.plan.defaults import DEFAULTS
from rpln_runtime.errors import MissingExtraError
from tests.export.checkpoints import ENCODER_TASKS, make_checkpoint
from tests.export.references import FP32_DIFFERENCE, PAD, assert_equal, reference
from tests.optimum.test_generation import generated
from tests.optimum.test_ortmodel import CLASSES, run_model

# Optimum exports with the older of torch's two exporters, which warns of itself and of each value that it reads once.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

DECODER = "text-generation"
ENCODER_DECODER = "text2text-generation"


@contextlib.contextmanager
def exported(kind: Any, checkpoint: Path, **options: Any) -> Iterator[Any]:
    """Let a class of Optimum's export a checkpoint, and remove its temporary folder, which it leaves to the garbage."""
    model = kind.from_pretrained(checkpoint, export=True, **options)
    try:
        yield model
    finally:
        model._model_save_dir_tempdirectory_instance.cleanup()


@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_every_head_of_an_encoder_computes_what_torch_computes(task: str) -> None:
    checkpoint = DEFAULTS[task].folder
    with exported(CLASSES[task], checkpoint) as model:
        assert_equal(reference(checkpoint, task), task, run_model(model, task))


def test_a_network_with_several_token_types_gets_them_as_an_input(tmp_path: Path) -> None:
    task = "question-answering"
    checkpoint = make_checkpoint(tmp_path, task)
    with exported(CLASSES[task], checkpoint) as model:
        assert set(model.input_names) == {"input_ids", "attention_mask", "token_type_ids"}
        assert_equal(reference(checkpoint, task), task, run_model(model, task))


def test_the_tasks_are_those_of_encoders_and_decoders() -> None:
    found = TasksManager.get_supported_tasks_for_model_type(MODEL_TYPE, "onnx", library_name="transformers")
    assert set(found) == {*ENCODER_TASKS, DECODER, f"{DECODER}-with-past"}


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plugged_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs optimum-cli with the plug-in where the wheel puts it."""
    site = tmp_path_factory.mktemp("site")
    folder = site / "optimum" / "commands" / "register"
    folder.mkdir(parents=True)
    shutil.copy(register_rpln_export.__file__, folder)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("optimum-cli")), *arguments]
        environment = {**os.environ, "PYTHONPATH": path, **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def decoder(plugged_in: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that optimum-cli exports the embedded language model to, with a cache."""
    folder = tmp_path_factory.mktemp("exported") / "decoder"
    done = plugged_in(
        "export", "onnx", "--model", str(DEFAULTS[DECODER].folder), "--task", f"{DECODER}-with-past", str(folder)
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_decoder_that_the_command_line_exported_computes_what_torch_computes(decoder: Path) -> None:
    model = ORTModelForCausalLM.from_pretrained(decoder)
    assert model.can_use_cache
    assert {"input_ids", "attention_mask", "position_ids"} < set(model.input_names)
    expected_model = reference(DEFAULTS[DECODER].folder, DECODER)
    rng = np.random.default_rng(16)
    for mask in (
        [[1] * 9, [0] * 5 + [1] * 4, [0] * 8 + [1]],  # padding on the left
        [[1] * 9, [1] * 4 + [0] * 5],  # on the right
    ):
        keep = torch.tensor(mask)
        ids = torch.where(keep == 1, torch.from_numpy(rng.integers(5, 4096, keep.shape)), PAD)
        positions = keep.cumsum(-1) * keep + PAD
        with torch.inference_mode():
            expected = expected_model(ids, attention_mask=keep, position_ids=positions).logits
        first, second = ids[:, :5], ids[:, 5:]
        past = model(first, attention_mask=keep[:, :5], position_ids=positions[:, :5], use_cache=True)
        rest = model(
            second,
            attention_mask=keep,
            position_ids=positions[:, 5:],
            past_key_values=past.past_key_values,
            use_cache=True,
        )
        found = torch.cat([past.logits, rest.logits], dim=1)
        assert (found - expected)[keep == 1].abs().max() <= FP32_DIFFERENCE


def test_it_generates_what_transformers_does(decoder: Path) -> None:
    expected = generated(reference(DEFAULTS[DECODER].folder, DECODER))
    assert generated(ORTModelForCausalLM.from_pretrained(decoder)) == expected
    assert len(set(map(tuple, expected))) == len(expected)


@pytest.mark.parametrize("use_cache", [True, False])
def test_so_does_one_that_was_exported_in_python(*, use_cache: bool) -> None:
    checkpoint = DEFAULTS[DECODER].folder
    expected = generated(reference(checkpoint, DECODER), num_beams=3)
    with exported(ORTModelForCausalLM, checkpoint, use_cache=use_cache) as model:
        assert model.can_use_cache == use_cache
        assert generated(model, num_beams=3) == expected


def test_other_commands_start_without_torch(plugged_in: Callable[..., Any]) -> None:
    done = plugged_in("export", "--help", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "optimum.commands.export.onnx" in imported
    assert {"torch", "rpln_export"} & imported == set()


# -- encoder-decoders ------------------------------------------------------------------------------------------------


def test_an_encoder_decoder_without_a_cache_computes_what_torch_computes() -> None:
    checkpoint = DEFAULTS[ENCODER_DECODER].folder
    expected_model = reference(checkpoint, ENCODER_DECODER)
    rng = np.random.default_rng(16)
    keep = torch.tensor([[1] * 9, [0] * 5 + [1] * 4, [1] * 4 + [0] * 5])
    ids = torch.where(keep == 1, torch.from_numpy(rng.integers(5, 2048, keep.shape)), PAD)
    decoder_ids = torch.from_numpy(rng.integers(5, 2048, (3, 6)))
    options = {"max_new_tokens": 12, "do_sample": False, "num_beams": 2}
    with torch.inference_mode():
        expected = expected_model(ids, attention_mask=keep, decoder_input_ids=decoder_ids).logits
        expected_rows = expected_model.generate(ids, attention_mask=keep, **options)
    with exported(ORTModelForSeq2SeqLM, checkpoint, use_cache=False) as model:
        found = model(input_ids=ids, attention_mask=keep, decoder_input_ids=decoder_ids).logits
        assert (found - expected).abs().max() <= FP32_DIFFERENCE
        assert torch.equal(model.generate(ids, attention_mask=keep, **options), expected_rows)


def test_an_encoder_decoder_with_a_cache_is_refused_as_the_documentation_says(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not need past key values"):
        main_export(str(DEFAULTS[ENCODER_DECODER].folder), tmp_path, task=f"{ENCODER_DECODER}-with-past")


def test_without_optimum_the_import_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optimum.onnxruntime", None)
    monkeypatch.delitem(sys.modules, "rpln_export.optimum")
    with pytest.raises(MissingExtraError, match=r'pip install "rpln-export\[optimum\]"'):
        import rpln_export.optimum  # noqa: F401
