"""Choices that contradict each other, would silently do something else, or would lose data are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from rpln_export.checkpoint.model import source_from_plan
from rpln_export.checkpoint.tokenizer import load_tokenizer
from rpln_export.cli import export_command, rpln_command
from rpln_export.destination import check_destination
from rpln_export.errors import DestinationError, PlanError
from rpln_export.plan.export_plan import make_plan
from rpln_model import RobertaPreLayerNormForTokenClassification, updated_config
from rpln_model.checkpoints import load_config
from tests.export.checkpoints import make_checkpoint
from tests.export.conftest import Export

TASK = "token-classification"


def test_two_precisions_are_refused() -> None:
    result = CliRunner().invoke(export_command, ["--fp16", "--bf16"])
    assert (result.exit_code, "--precision, --fp16, --bf16, --int8, --int4 and --fp8" in result.stderr) == (2, True)


def test_calibration_of_an_fp32_export_is_refused(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n", encoding="utf-8")
    with pytest.raises(PlanError, match="--calibration goes with --int8, --int4, --fp8, --fp16 or --bf16"):
        make_plan(None, calibration=texts)


def test_text_generation_refuses_a_decoder_with_cross_attention(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "decoder"
    shutil.copytree(checkpoint("fill-mask"), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"is_decoder": True, "add_cross_attention": True}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(PlanError, match="has cross-attention"):
        make_plan(str(folder), task="text-generation")


def test_texts_beside_fields_are_refused(exported: Callable[..., Export]) -> None:
    result = CliRunner().invoke(rpln_command, ["run", str(exported(TASK).folder), "text", "--field", "text=other"])
    assert (result.exit_code, "give either one or more texts" in result.stderr) == (2, True)


@pytest.mark.parametrize("option", ["provider=cuda", "folder=z", "verify=false"])
def test_arguments_of_the_library_are_no_options_of_the_task(exported: Callable[..., Export], option: str) -> None:
    result = CliRunner().invoke(rpln_command, ["run", str(exported(TASK).folder), "text", "--option", option])
    assert (result.exit_code, f"unknown option {option.split('=', maxsplit=1)[0]!r}" in result.stderr) == (3, True)


@pytest.mark.parametrize(("value", "code"), [("False", 0), ("true", 0), ("yes", 3), ("1", 3)])
def test_booleans_are_true_or_false(exported: Callable[..., Export], value: str, code: int) -> None:
    folder = str(exported("feature-extraction").folder)
    result = CliRunner().invoke(rpln_command, ["run", folder, "text", "--option", f"normalize={value}"])
    assert result.exit_code == code, result.stderr


def test_an_option_given_as_false_is_false(exported: Callable[..., Export]) -> None:
    options = ["--option", "pooling=mean", "--option", "normalize=False", "--json"]
    result = CliRunner().invoke(rpln_command, ["run", str(exported("feature-extraction").folder), "text", *options])
    assert not np.isclose(np.linalg.norm(json.loads(result.stdout)[0]), 1.0)


def test_what_a_user_put_into_a_bundle_is_not_deleted(exported: Callable[..., Export], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported(TASK).folder, folder)
    check_destination(folder)
    (folder / "engines").mkdir()
    (folder / "engines" / "mine.plan").touch()
    with pytest.raises(DestinationError, match=r"engines/mine\.plan"):
        check_destination(folder)


def test_the_current_folder_is_refused_as_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DestinationError, match="the folder you are in"):
        check_destination(Path())


def test_a_checkpoint_is_known_by_the_weights_it_is_read_from(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(checkpoint(TASK), folder)
    before = source_from_plan(make_plan(str(folder))).sha256
    (folder / "training_args.bin").write_bytes(b"not weights")
    (folder / "model.fp16.safetensors").write_bytes(b"others")
    assert source_from_plan(make_plan(str(folder))).sha256 == before


def test_the_mask_takes_the_space_before_it_without_a_tokenizer_json(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = AutoTokenizer.from_pretrained(checkpoint("fill-mask"))
    vocabulary, merges = (json.loads(whole.backend_tokenizer.to_str())["model"][key] for key in ("vocab", "merges"))
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")
    shutil.copy(checkpoint("fill-mask") / "config.json", tmp_path)

    tokenizer, _ = load_tokenizer(str(tmp_path), revision=None, vocab_size=10_000)
    ids = tokenizer("two <mask> x")["input_ids"]

    assert tokenizer.convert_ids_to_tokens(ids)[ids.index(tokenizer.mask_token_id) - 1] != "Ġ"


def test_relative_positions_have_a_bf16_graph(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "relative", TASK)
    config = updated_config(load_config(folder), {"position_embedding_type": "relative_key_query"})
    RobertaPreLayerNormForTokenClassification(config).save_pretrained(folder)  # transformers 5 has no such model
    result = CliRunner().invoke(export_command, [str(folder), "--bf16", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
