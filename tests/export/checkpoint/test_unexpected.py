"""Weights that a network has no place for are refused, unless nothing reads them or --ignore-unexpected leaves them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from rpln_export.checkpoint.model import load_model
from rpln_export.cli import export_command
from rpln_export.errors import PlanError
from rpln_export.plan.export_plan import make_plan
from tests.export.checkpoints import HIDDEN

WEIGHTS = "model.safetensors"
QUERY = "roberta_prelayernorm.encoder.layer.0.attention.self.query"
LAYER = "roberta_prelayernorm.encoder.layer.7.output.dense.weight"
LOOKS = {
    f"{QUERY}.lora_A.default.weight": "a peft adapter that were not merged",
    "classifier.modules_to_save.default.weight": "a peft adapter that were not merged",
    LAYER: "layers 7, counted from 0, but num_hidden_layers in config.json",
    "roberta_prelayernorm.encoder.layer.0.crossattention.self.query.weight": "add_cross_attention in config.json",
    "roberta_prelayernorm.encoder.layer.0.attention.self.distance_embedding.weight": "position_embedding_type",
    "roberta_prelayernorm.encoder.layer.0.adapter.down.weight": "an adapter between the layers",
    f"{QUERY}.weight_orig": "a parametrized weight",
    f"{QUERY}.weight_scale": "quantized weights",
    f"{QUERY}.gate": "it may be another network",
}
HARMLESS = (
    "roberta_prelayernorm.pooler.dense.weight",
    "lm_head.bias",
    "lm_head.decoder.weight",
    "qa_outputs.bias",
    "classifier.out_proj.weight",
    "roberta_prelayernorm.embeddings.position_ids",
)


def with_weights(source: Path, folder: Path, *names: str) -> Path:
    shutil.copytree(source, folder)
    more = {name: torch.ones(2, HIDDEN) for name in names}
    save_file(load_file(folder / WEIGHTS) | more, folder / WEIGHTS, {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", LOOKS)
def test_a_weight_without_a_place_is_refused_by_name_and_said_to_look_like_something(
    checkpoint: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    source = with_weights(checkpoint("token-classification"), tmp_path / "source", name)
    with pytest.raises(PlanError, match="--ignore-unexpected") as refusal:
        load_model(make_plan(str(source)))
    expected = ("holds 1 weight that RobertaPreLayerNormForTokenClassification has no place for", name, LOOKS[name])
    assert [part for part in expected if part not in str(refusal.value)] == []
    _, left_out = load_model(make_plan(str(source), ignore_unexpected=True))
    assert left_out == (name,)


def test_weights_that_nothing_reads_are_no_reason_to_refuse(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = with_weights(checkpoint("token-classification"), tmp_path / "source", *HARMLESS)
    assert load_model(make_plan(str(source)))[1] == ()


@pytest.mark.parametrize(
    "task", ["fill-mask", "text-classification", "token-classification", "question-answering", "text-generation"]
)
def test_feature_extraction_drops_every_head(checkpoint: Callable[[str], Path], tmp_path: Path, task: str) -> None:
    source = with_weights(checkpoint(task), tmp_path / "source", "head_of_my_own.weight")
    plan = make_plan(str(source), task="feature-extraction")
    assert load_model(plan)[1] == ()
    with_weights(source, tmp_path / "more", LAYER)
    with pytest.raises(PlanError, match=r"encoder\.layer\.7\.output\.dense\.weight"):
        load_model(make_plan(str(tmp_path / "more"), task="feature-extraction"))


def test_a_base_model_with_more_than_its_names_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = with_weights(checkpoint("feature-extraction"), tmp_path / "source", "projection.weight")
    with pytest.raises(PlanError, match=r"projection\.weight"):
        load_model(make_plan(str(source)))


def test_both_networks_of_an_encoder_decoder_are_checked(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    names = (
        "decoder.roberta_prelayernorm.encoder.layer.4.output.dense.bias",
        "encoder.encoder.layer.3.output.dense.bias",
    )
    source = with_weights(checkpoint("text2text-generation"), tmp_path / "source", *names)
    with pytest.raises(PlanError, match=r"2 weights.*layers 3, 4, counted from 0"):
        load_model(make_plan(str(source)))


def test_an_export_refuses_them_and_goes_on_if_it_is_asked_to(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with_weights(checkpoint("token-classification"), tmp_path / "source", LAYER)
    arguments = ["source", "--optimize", "none", "--engine", "none", "-o", "out"]
    result = CliRunner().invoke(export_command, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert LAYER in result.stderr
    assert not Path("out").exists()
    result = CliRunner().invoke(export_command, [*arguments, "--ignore-unexpected"])
    assert result.exit_code == 0, result.output
    assert f"left out (--ignore-unexpected): 1 weight, {LAYER}" in result.stdout
    assert json.loads(Path("out/report.json").read_text())["left_out"] == [LAYER]
    assert f"- {LAYER}\n" in Path("out/report.md").read_text()
