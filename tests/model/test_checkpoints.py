"""Checkpoints of transformers load here, those of this package load in transformers, and none is half written."""

import errno
import json
import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import modeling_utils

from rpln_model import CheckpointError, RobertaPreLayerNormForTokenClassification
from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from rpln_model.config import updated_config
from rpln_model.errors import CheckpointNotFoundError
from rpln_model.hub import uses_cache_only
from tests.model.references import (
    HIDDEN,
    OUTPUT_TOLERANCE,
    SINGLE_HEADS,
    VOCABULARY,
    assert_equal_outputs,
    counterpart,
    difference,
    own_model,
    random_ids,
    reference_model,
    tiny_config,
    token_shape,
)
from tests.model.savers import SAVERS, save_pickle

BASE = "RobertaPreLayerNormModel"
MASKED_LM = "RobertaPreLayerNormForMaskedLM"
TAGGER = "RobertaPreLayerNormForTokenClassification"
CLASSIFIER = "RobertaPreLayerNormForSequenceClassification"


def outputs_of(model: Any) -> Any:
    with torch.no_grad():
        return model(random_ids(*token_shape(type(model).__name__)), output_hidden_states=True)


@pytest.mark.parametrize("form", SAVERS)
@pytest.mark.parametrize("architecture", SINGLE_HEADS)
def test_what_transformers_saves_loads_here(architecture: str, form: str, tmp_path: Path) -> None:
    reference = reference_model(architecture, tiny_config(is_decoder=architecture.endswith("CausalLM")))
    SAVERS[form](reference, tmp_path)
    ours, info = SINGLE_HEADS[architecture].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert not ours.training
    assert_equal_outputs(outputs_of(ours), outputs_of(reference), final_norm=ours.base_model.LayerNorm)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_size", ["5GB", "12KB"])
@pytest.mark.parametrize("architecture", SINGLE_HEADS)
def test_what_is_saved_here_loads_in_transformers(
    *, architecture: str, shard_size: str, tied: bool, tmp_path: Path
) -> None:
    ours = own_model(architecture, is_decoder=architecture.endswith("CausalLM"), tie_word_embeddings=tied)
    ours.save_pretrained(tmp_path, max_shard_size=shard_size)
    reference, info = getattr(transformers, architecture).from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values())
    assert_equal_outputs(outputs_of(ours), outputs_of(reference), final_norm=ours.base_model.LayerNorm)
    assert reference.config.architectures == [architecture]
    again = SINGLE_HEADS[architecture].from_pretrained(tmp_path)
    assert difference(outputs_of(again)[0], outputs_of(ours)[0]) == 0


def test_the_saved_names_are_those_that_transformers_saves(tmp_path: Path) -> None:
    reference = reference_model(MASKED_LM, tiny_config())
    for model, folder in ((reference, tmp_path / "theirs"), (counterpart(reference), tmp_path / "ours")):
        model.save_pretrained(folder)
    assert (
        load_file(tmp_path / "ours/model.safetensors").keys() == load_file(tmp_path / "theirs/model.safetensors").keys()
    )


def test_a_base_checkpoint_loads_into_a_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference_model(BASE, tiny_config()).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        model, info = SINGLE_HEADS[TAGGER].from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert {name.removeprefix("roberta_prelayernorm.") for name in info["unexpected_keys"]} == {
        "pooler.dense.bias",
        "pooler.dense.weight",
    }
    assert "classifier.weight" in caplog.text
    assert model.get_parameter("classifier.weight").std() > 0
    base = SINGLE_HEADS[BASE].from_pretrained(tmp_path)
    assert difference(outputs_of(model.base_model).last_hidden_state, outputs_of(base).last_hidden_state) == 0


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_head_is_missing_as_a_whole(*, tied: bool, tmp_path: Path) -> None:
    reference_model(BASE, tiny_config(tie_word_embeddings=tied)).save_pretrained(tmp_path)
    model, info = SINGLE_HEADS[MASKED_LM].from_pretrained(tmp_path, output_loading_info=True)
    theirs: Any = transformers.RobertaPreLayerNormForMaskedLM
    expected = theirs.from_pretrained(tmp_path, output_loading_info=True)[1]
    assert set(info["missing_keys"]) == set(expected["missing_keys"])
    assert {"lm_head.bias", "lm_head.dense.weight", "lm_head.layer_norm.bias"} < set(info["missing_keys"])
    assert ("lm_head.decoder.weight" in info["missing_keys"]) is not tied
    output = model.get_output_embeddings()
    assert output is not None
    assert (output.weight is model.get_input_embeddings().weight) is tied
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_heads_checkpoint_loads_into_the_base_model(tmp_path: Path) -> None:
    reference = reference_model(TAGGER, tiny_config())
    reference.save_pretrained(tmp_path)
    model, info = SINGLE_HEADS[BASE].from_pretrained(tmp_path, output_loading_info=True, add_pooling_layer=False)
    assert set(info.pop("unexpected_keys")) == {"classifier.bias", "classifier.weight"}
    assert not any(info.values())
    assert difference(outputs_of(model)[0], outputs_of(reference.base_model)[0]) <= OUTPUT_TOLERANCE
    with_pooler, info = SINGLE_HEADS[BASE].from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert outputs_of(with_pooler).pooler_output.shape == (3, HIDDEN)


def test_the_decoders_bias_counts_where_a_checkpoint_has_two(tmp_path: Path) -> None:
    """If embeddings are not tied, transformers 5 saves an lm_head.bias that it does not use beside the decoder's."""
    reference = reference_model(MASKED_LM, tiny_config(tie_word_embeddings=False))
    state = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    state["lm_head.bias"] = torch.full((VOCABULARY,), 9.0)
    save_pickle(reference, tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = SINGLE_HEADS[MASKED_LM].from_pretrained(tmp_path)
    assert difference(outputs_of(model).logits, outputs_of(reference).logits) <= OUTPUT_TOLERANCE


@pytest.mark.parametrize("saved", ["lm_head.bias", "lm_head.decoder.bias"])
def test_an_untied_head_needs_its_bias_under_one_name_only(saved: str, tmp_path: Path) -> None:
    """transformers 4.57 saves it under the first name, and 5 reads the second."""
    model = own_model(MASKED_LM, tie_word_embeddings=False)
    other = {"lm_head.bias", "lm_head.decoder.bias"} - {saved}
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in other}
    save_pickle(model, tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    loaded, info = SINGLE_HEADS[MASKED_LM].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert difference(outputs_of(loaded).logits, outputs_of(model).logits) == 0


def test_a_second_table_in_a_tied_checkpoint_counts_as_it_does_for_transformers(tmp_path: Path) -> None:
    """transformers 4.57 ties the tables all the same; 5 reads both tables and warns."""
    reference = reference_model(MASKED_LM, tiny_config())
    save_pickle(reference, tmp_path)
    state = dict(reference.state_dict()) | {"lm_head.decoder.weight": torch.zeros(VOCABULARY, HIDDEN)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = SINGLE_HEADS[MASKED_LM].from_pretrained(tmp_path)
    reference = type(reference).from_pretrained(tmp_path, attn_implementation="eager")
    assert difference(outputs_of(model).logits, outputs_of(reference).logits) <= OUTPUT_TOLERANCE


@pytest.mark.parametrize("saved", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [None, torch.float16, torch.bfloat16])
def test_weights_get_the_dtype_asked_for(saved: torch.dtype, wanted: torch.dtype | None, tmp_path: Path) -> None:
    reference = reference_model(TAGGER, tiny_config()).to(saved)
    reference.save_pretrained(tmp_path)
    model = SINGLE_HEADS[TAGGER].from_pretrained(tmp_path, dtype=wanted)
    dtype = wanted or torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {model.dtype} == {dtype}
    for name, parameter in reference.to(dtype).named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)
    assert outputs_of(model).logits.dtype == dtype
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_overrides_go_to_the_config(tmp_path: Path) -> None:
    reference_model(BASE, tiny_config()).save_pretrained(tmp_path)
    model = SINGLE_HEADS[CLASSIFIER].from_pretrained(
        tmp_path, num_labels=5, problem_type="regression", output_attentions=True
    )
    outputs = outputs_of(model)
    assert outputs.logits.shape == (3, 5)
    assert len(outputs.attentions) == 2
    assert model.config.problem_type == "regression"
    decoder = SINGLE_HEADS["RobertaPreLayerNormForCausalLM"].from_pretrained(tmp_path, is_decoder=True)
    assert outputs_of(decoder).past_key_values is not None


def test_an_unknown_override_is_a_type_error(tmp_path: Path) -> None:
    reference_model(BASE, tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_lables'"):
        SINGLE_HEADS[BASE].from_pretrained(tmp_path, num_lables=1)


def test_a_given_config_is_used_and_not_changed(tmp_path: Path) -> None:
    reference = reference_model(TAGGER, tiny_config())
    reference.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    config: Any = tiny_config(hidden_act=torch.nn.functional.gelu)
    before = vars(config).copy()
    model = RobertaPreLayerNormForTokenClassification.from_pretrained(tmp_path, config=config)
    assert vars(model.config)["hidden_act"] is torch.nn.functional.gelu
    assert vars(config) == before
    assert difference(outputs_of(model).logits, outputs_of(reference).logits) <= OUTPUT_TOLERANCE


def test_loaded_weights_stay_mapped_to_their_file(tmp_path: Path) -> None:
    """So loading needs no second copy. The mapping is private, so that training does not change the file."""
    own_model(TAGGER).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    model = SINGLE_HEADS[TAGGER].from_pretrained(tmp_path)
    ranges = [
        tuple(int(address, 16) for address in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(file))
    ]
    for name, parameter in model.named_parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in ranges), name
    nn.utils.vector_to_parameters(torch.zeros(model.num_parameters()), model.parameters())
    assert file.read_bytes() == content


def test_saving_over_the_folder_that_was_loaded(tmp_path: Path) -> None:
    own_model(TAGGER).save_pretrained(tmp_path, max_shard_size="12KB")
    model = SINGLE_HEADS[TAGGER].from_pretrained(tmp_path)
    before = outputs_of(model).logits
    (tmp_path / "tokenizer.json").write_text("kept")
    model.save_pretrained(tmp_path)
    assert difference(outputs_of(model).logits, before) == 0
    assert difference(outputs_of(SINGLE_HEADS[TAGGER].from_pretrained(tmp_path)).logits, before) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_new_shards_are_not_hidden_by_an_older_whole_file(tmp_path: Path) -> None:
    own_model(TAGGER, seed=1).save_pretrained(tmp_path)
    model = own_model(TAGGER)
    model.save_pretrained(tmp_path, max_shard_size="12KB")
    assert difference(outputs_of(SINGLE_HEADS[TAGGER].from_pretrained(tmp_path)).logits, outputs_of(model).logits) == 0


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = own_model(TAGGER)
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(modeling_utils, "safe_save_file", full)
    model.config.hidden_dropout_prob = 0.5
    with pytest.raises(CheckpointError, match=r"cannot write .*No space left on device"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_next_save_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    left = tmp_path / ".config.json.0123abcd.partial"
    (left / "new").mkdir(parents=True)
    (left / "new" / "model.safetensors").write_bytes(b"half")
    (left / "lock").touch()
    (tmp_path / "optimizer.pt").write_bytes(b"of the user")
    own_model(TAGGER).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "optimizer.pt"}


def test_a_folder_that_cannot_be_made_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write a checkpoint to .*/file/folder"):
        own_model(TAGGER).save_pretrained(tmp_path / "file/folder")


def test_a_callable_activation_cannot_be_saved(tmp_path: Path) -> None:
    config = updated_config(tiny_config(), {"hidden_act": torch.tanh})
    with pytest.raises(CheckpointError, match=r"hidden_act.*config\.json"):
        SINGLE_HEADS[TAGGER](config).save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def hub_cache(folder: Path, model: RobertaPreLayerNormPreTrainedModel, *, pickled: bool) -> None:
    """Make a cache as the hub's client leaves it after it downloaded someone/tagger at the main branch and at a tag."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = folder / "models--someone--tagger"
    for branch in ("main", "v1"):
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    if pickled:
        save_pickle(model, snapshot)
    else:
        model.save_pretrained(snapshot)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("revision", [None, "main", "v1"])
def test_a_hub_id_is_read_from_the_cache(
    *, pickled: bool, revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    saved = own_model(TAGGER)
    hub_cache(tmp_path, saved, pickled=pickled)
    model = SINGLE_HEADS[TAGGER].from_pretrained("someone/tagger", revision=revision)
    assert difference(outputs_of(model).logits, outputs_of(saved).logits) == 0
    assert model.config.name_or_path == "someone/tagger"


def test_without_a_network_the_cache_is_used_at_once_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    asked: list[bool] = []

    def download(*arguments: Any, local_files_only: bool, **options: Any) -> Any:
        asked.append(local_files_only)
        return str(real(*arguments, local_files_only=local_files_only, **options))

    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub_cache(tmp_path, own_model(TAGGER), pickled=False)
    uses_cache_only.cache_clear()
    try:
        for _ in range(2):
            SINGLE_HEADS[TAGGER].from_pretrained("someone/tagger")
        with pytest.raises(CheckpointError, match="someone/else"):
            SINGLE_HEADS[TAGGER].from_pretrained("someone/else")
    finally:
        uses_cache_only.cache_clear()
    assert all(asked)
    assert len(asked) == 3
    assert caplog.text.count("http://127.0.0.1:9 cannot be reached") == 1


@pytest.mark.parametrize("source", ["someone/else", "tagger", "not a name!"])
def test_a_hub_id_that_is_nowhere_is_a_checkpoint_error(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointNotFoundError, match=f"'{source}'.* revision v2") as error:
        SINGLE_HEADS[TAGGER].from_pretrained(source, revision="v2")
    assert "HF_HUB_OFFLINE" in str(error.value)
    assert error.value.exit_code == 2
