"""`rpln convert` writes what transformers 4.57 and 5 load, with the same logits and ids."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from rpln_export.cli import export_command, rpln_command
from rpln_export.errors import DestinationError, PlanError
from rpln_model.errors import CheckpointError, CheckpointNotFoundError
from rpln_runtime.manifest import read_manifest
from tests.export.checkpoints import make_checkpoint
from tests.fairseq_files import CLASSIFIER, MASKED_LM, NO_EMBEDDING_NORM, TOLERANCE, VOCABULARY, expected, expected_ids


def convert(checkpoint: object, folder: Path, *options: object) -> Result:
    arguments = ["convert", checkpoint, "-o", folder, *options]
    return CliRunner().invoke(rpln_command, list(map(str, arguments)))


def loaded(auto: Any, folder: Path) -> Any:
    model, info = auto.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not {name: keys for name, keys in info.items() if keys}
    return model.eval()


def logits(model: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask).long()).logits.numpy()
    return found


def test_transformers_gives_the_logits_of_fairseq(tmp_path: Path) -> None:
    result = convert(MASKED_LM, tmp_path / "out", *VOCABULARY)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "model.safetensors" in result.stdout
    ids, real, theirs = expected("masked_lm")
    ours = logits(loaded(transformers.AutoModelForMaskedLM, tmp_path / "out"), ids, real)
    np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=TOLERANCE)


def test_transformers_gives_the_scores_of_fairseq(tmp_path: Path) -> None:
    assert convert(CLASSIFIER, tmp_path / "out").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    ids, real, theirs = expected("sentence_prediction")
    ours = logits(loaded(transformers.AutoModelForSequenceClassification, tmp_path / "out"), ids, real)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_task_fill_mask_converts_the_masked_lm_of_a_classifier(tmp_path: Path) -> None:
    assert convert(CLASSIFIER, tmp_path / "out", "--task", "fill-mask").exit_code == 0
    assert (
        type(loaded(transformers.AutoModelForMaskedLM, tmp_path / "out")).__name__ == "RobertaPreLayerNormForMaskedLM"
    )


def test_transformers_gives_the_ids_of_fairseq(tmp_path: Path) -> None:
    assert convert(MASKED_LM, tmp_path / "out", *VOCABULARY).exit_code == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    known = expected_ids()
    assert tokenizer.model_max_length == 64
    assert [tokenizer(text)["input_ids"] for text, _ in known["texts"]] == [ids for _, ids in known["texts"]]
    assert [tokenizer(text)["input_ids"] for text, _ in known["masked"]] == [ids for _, ids in known["masked"]]
    pairs = [tokenizer(first, second)["input_ids"] for first, second, _ in known["pairs"]]
    assert pairs == [ids for _, _, ids in known["pairs"]]


# DinkyTrain


@pytest.fixture
def dinkytrain(tmp_path: Path) -> tuple[Path, Any]:
    """Return a folder as DinkyTrain's converter writes it, and the model that it holds."""
    folder = make_checkpoint(tmp_path / "dinky", "fill-mask", layer_norm_eps=1e-5)
    model = loaded(transformers.AutoModelForMaskedLM, folder)
    as_dinkytrain(folder, model)
    return folder, model


def as_dinkytrain(folder: Path, model: Any) -> None:
    """Rename the tensors of a masked LM in a folder, and add those that DinkyTrain's modules have and never apply."""
    (folder / "model.safetensors").unlink()
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fields |= {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    weights = {name.replace("roberta_prelayernorm.", "roberta."): x for name, x in model.state_dict().items()}
    for layer in range(model.config.num_hidden_layers):
        for kind in ("weight", "bias"):
            name = f"roberta.encoder.layer.{layer}.attention.self.LayerNorm.{kind}"
            weights[name] = torch.full((model.config.hidden_size,), torch.nan)
    weights["roberta.embeddings.position_ids"] = torch.arange(4)[None]
    torch.save(weights, folder / "pytorch_model.bin")


def as_safetensors(folder: Path) -> None:
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").unlink()


@pytest.mark.parametrize("kind", ["pickle", "safetensors"])
@pytest.mark.parametrize("named_by", ["folder", "file"])
def test_dinkytrain_is_the_same_model(kind: str, named_by: str, dinkytrain: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = dinkytrain
    if kind == "safetensors":
        as_safetensors(folder)
    (weights,) = [path for path in folder.iterdir() if path.suffix in {".bin", ".safetensors"}]
    result = convert(weights if named_by == "file" else folder, tmp_path / "out")
    assert (result.exit_code, result.stderr) == (0, "")
    converted = loaded(transformers.AutoModelForMaskedLM, tmp_path / "out")
    ids = torch.randint(5, model.config.vocab_size, (3, 17), generator=torch.Generator().manual_seed(0)).numpy()
    mask = np.ones(ids.shape, dtype=bool)
    np.testing.assert_array_equal(logits(converted, ids, mask), logits(model, ids, mask))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


@pytest.mark.usefixtures("traced_once")
def test_dinkytrain_is_exported_as_it_is(dinkytrain: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = dinkytrain
    arguments = [folder, "-o", tmp_path / "out", "--optimize", "none"]
    result = CliRunner().invoke(export_command, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.task, manifest.source.name) == ("fill-mask", "dinky")
    result = CliRunner().invoke(rpln_command, ["validate", str(tmp_path / "out"), str(folder)])
    assert result.exit_code == 0, result.output


@pytest.mark.usefixtures("traced_once")
def test_dinkytrain_on_the_hub_is_called_by_its_id(
    dinkytrain: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "cache" / "models--someone--efficient"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40, encoding="ascii")
    shutil.copytree(dinkytrain[0], repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    arguments = ["someone/efficient", "-o", tmp_path / "out", "--optimize", "none", "--tokenizer", dinkytrain[0]]
    result = CliRunner().invoke(export_command, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert read_manifest(tmp_path / "out").source.name == "efficient"


def change_weights(folder: Path, **new: torch.Tensor | None) -> None:
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for name, tensor in new.items():
        weights.pop(name, None)
        if tensor is not None:
            weights[name] = tensor
    torch.save(weights, folder / "pytorch_model.bin")


def test_roberta_itself_is_refused(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.RobertaForMaskedLM(config).save_pretrained(tmp_path / "roberta")
    result = convert(tmp_path / "roberta", tmp_path / "out")
    assert result.exit_code == CheckpointError.exit_code
    assert "RoBERTa itself" in result.stderr


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        (
            "roberta.encoder.adapter.weight",
            torch.zeros(2),
            "does not have: roberta_prelayernorm.encoder.adapter.weight",
        ),
        (
            "roberta.encoder.layer.1.output.dense.bias",
            None,
            "lacks roberta_prelayernorm.encoder.layer.1.output.dense.b",
        ),
        ("roberta.LayerNorm.bias", torch.zeros(3), "LayerNorm.bias is (3,), not (32,)"),
    ],
)
def test_weights_of_another_network_are_refused(
    name: str, tensor: torch.Tensor | None, says: str, dinkytrain: tuple[Path, Any], tmp_path: Path
) -> None:
    change_weights(dinkytrain[0], **{name: tensor})
    result = convert(dinkytrain[0], tmp_path / "out")
    assert result.exit_code == CheckpointError.exit_code
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_pooler_that_no_head_reads_is_left_out(dinkytrain: tuple[Path, Any], tmp_path: Path) -> None:
    change_weights(dinkytrain[0], **{"roberta.pooler.dense.weight": torch.zeros(32, 32)})
    assert convert(dinkytrain[0], tmp_path / "out").exit_code == 0


def test_an_architecture_without_a_counterpart_is_refused(dinkytrain: tuple[Path, Any], tmp_path: Path) -> None:
    path = dinkytrain[0] / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | {"architectures": ["RobertaForNextSentence"]}
    path.write_text(json.dumps(fields), encoding="utf-8")
    result = convert(dinkytrain[0], tmp_path / "out")
    assert result.exit_code == CheckpointError.exit_code
    assert "RobertaForNextSentence" in result.stderr
    assert "RobertaForMaskedLM" in result.stderr


# what is refused


def test_what_transformers_loads_is_not_converted(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "plain", "fill-mask")
    for named in (folder, folder / "model.safetensors"):
        result = convert(named, tmp_path / "out")
        assert result.exit_code == PlanError.exit_code
        assert f"transformers loads {named}" in result.stderr


def test_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    result = convert(MASKED_LM, tmp_path / "out")
    assert result.exit_code == DestinationError.exit_code
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("checkpoint", "options", "code"),
    [
        (NO_EMBEDDING_NORM, VOCABULARY, CheckpointError.exit_code),
        (MASKED_LM, VOCABULARY[:2], PlanError.exit_code),
        (MASKED_LM, ["--task", "text-classification"], PlanError.exit_code),
        (CLASSIFIER, ["--task", "token-classification"], PlanError.exit_code),
        (CLASSIFIER, ["--task", "nonsense"], PlanError.exit_code),
        (MASKED_LM, ["--dict", "nowhere", *VOCABULARY[2:]], PlanError.exit_code),
        ("nowhere/at/all", [], CheckpointNotFoundError.exit_code),
    ],
)
def test_what_cannot_be_converted_leaves_nothing(checkpoint: object, options: Any, code: int, tmp_path: Path) -> None:
    result = convert(checkpoint, tmp_path / "out", *options)
    assert result.exit_code == code, result.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_two_kinds_of_weights_is_named_as_a_folder(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "plain", "fill-mask")
    (folder / "pytorch_model.bin").write_bytes(b"")
    result = convert(folder / "pytorch_model.bin", tmp_path / "out")
    assert result.exit_code == CheckpointError.exit_code
    assert "holds other weights beside pytorch_model.bin" in result.stderr
