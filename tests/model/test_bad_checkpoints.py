"""Whatever is wrong with a checkpoint, one error says what, where and what to do. No code in a file is run."""

import errno
import json
import os
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BertConfig, RobertaConfig

from rpln_model import HEADS, CheckpointError, ConfigError, RplnModelError, check_finite, weights
from rpln_model.checkpoints import load_config
from rpln_model.weights import read_weights
from tests.model.references import HIDDEN, LENGTH, SINGLE_HEADS, names, own_model, random_ids, tiny_config

TAGGER = "RobertaPreLayerNormForTokenClassification"
WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
OLD_PICKLE = f"old {PICKLE}"
DEEP = "[" * 100_000 + "]" * 100_000


class Payload:
    """An object whose pickle runs code when it is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "executed")


def truncate(folder: Path, name: str, keep: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep * len(content))])


def to_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / PICKLE)
    (folder / WEIGHTS).unlink()


def rename_weights(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / name)


def write_index(folder: Path, content: Any) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps(content))


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def pickled_list(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save([torch.ones(2)], folder / PICKLE)


def write_text(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    if name == INDEX:
        (folder / WEIGHTS).unlink()


def pickled(folder: Path, content: Any) -> None:
    (folder / WEIGHTS).unlink()
    torch.save(content, folder / PICKLE)


def truncated_pickle(folder: Path) -> None:
    to_pickle(folder)
    truncate(folder, PICKLE, 0.5)


def lfs_pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def wide_classifier(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.weight"] = torch.zeros(5, HIDDEN)


def integer_weights(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.weight"] = torch.zeros(2, HIDDEN, dtype=torch.int8)


# What is done to the folder, and what the error says.
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (
        lambda folder: (folder / WEIGHTS).unlink(),
        r"no weights in .*model\.safetensors.*pytorch_model\.bin.*\.index\.json",
    ),
    "only TensorFlow": (
        lambda folder: rename_weights(folder, "tf_model.h5"),
        r"tf_model\.h5.*Convert .*TokenClassification as M; M\.from_pretrained\('.*', from_tf=True\)\.save_pretrained",
    ),
    "only Flax": (
        lambda folder: rename_weights(folder, "flax_model.msgpack"),
        r"flax_model\.msgpack.*\"transformers<5\" torch flax.*from_pretrained\('.*', from_flax=True\)\.save_pretrained",
    ),
    "empty": (
        lambda folder: (folder / WEIGHTS).write_bytes(b""),
        r"model\.safetensors.*corrupt.*SafetensorError.*fetch",
    ),
    "truncated": (
        lambda folder: truncate(folder, WEIGHTS, 0.7),
        r"model\.safetensors.*corrupt.*SafetensorError",
    ),
    "noise": (
        lambda folder: (folder / WEIGHTS).write_bytes(bytes(range(256)) * 8),
        r"model\.safetensors.*corrupt",
    ),
    "Git LFS pointer": (lfs_pointer, r"model\.safetensors is a Git LFS pointer, .*; run `git lfs pull`"),
    "truncated pickle": (truncated_pickle, r"pytorch_model\.bin is truncated, corrupt or unsafe \("),
    "pickle of something else": (pickled_list, r"pytorch_model\.bin holds no state dict; expected tensors by name"),
    "index is no index": (lambda folder: write_index(folder, [1]), r"index\.json is no weight index; expected "),
    "index without a map": (lambda folder: write_index(folder, {}), r"is no weight index; .*weight_map"),
    "index leaves the folder": (
        lambda folder: write_index(folder, {"weight_map": {"a": "../other/model.safetensors"}}),
        r"names '\.\./other/model\.safetensors'.* in the same folder",
    ),
    "index names the root": (
        lambda folder: write_index(folder, {"weight_map": {"a": "/etc/passwd"}}),
        r"names '/etc/passwd'.* in the same folder",
    ),
    "index names a number": (
        lambda folder: write_index(folder, {"weight_map": {"a": 7}}),
        r"index\.json is no weight index; expected ",
    ),
    "index names a long name": (
        lambda folder: write_index(folder, {"weight_map": {"a": "a" * 300}}),
        r"names 'a{300}'; a shard must be a file in the same folder",
    ),
    "index names no Unicode": (
        lambda folder: write_index(folder, {"weight_map": {"a": "\ud800"}}),
        r"index\.json names '.ud800'; a shard must be a file",
    ),
    "index names a NUL": (
        lambda folder: write_index(folder, {"weight_map": {"a": "a\0"}}),
        r"names 'a.x00'; a shard must be a file",
    ),
    "deep index": (
        lambda folder: write_text(folder, INDEX, '{"weight_map": ' + DEEP + "}"),
        r"index\.json is not valid JSON \(.*more than 64 lists",
    ),
    "pickle with a name that is none": (
        lambda folder: pickled(folder, {None: torch.ones(1), "a": torch.ones(1)}),
        r"pytorch_model\.bin holds no state dict",
    ),
    "deep config": (
        lambda folder: write_text(folder, "config.json", '{"x": ' + DEEP + "}"),
        r"config\.json is not valid JSON \(.*more than 64 lists",
    ),
    "config of 65 lists": (
        lambda folder: write_text(folder, "config.json", "[" * 65 + "]" * 65),
        r"config\.json is not valid JSON \(it has more than 64 lists",
    ),
    "config is no text": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"),
        r"config\.json is not valid JSON \('utf-8' codec",
    ),
    "config with an endless number": (
        lambda folder: write_text(folder, "config.json", '{"hidden_size": ' + "9" * 5000 + "}"),
        r"config\.json is not valid JSON \(the number 9{40} is too large",
    ),
    "model type is a list": (
        lambda folder: edit_config(folder, model_type=[]),
        r"describes a model of type \[\]; expected 'roberta-prelayernorm'",
    ),
    "architectures are a number": (
        lambda folder: edit_config(folder, architectures=2),
        r"config\.json: architectures is 2; expected a list",
    ),
    "dtype is a list": (
        lambda folder: edit_config(folder, dtype=[]),
        r"config\.json: dtype is \[\]; expected the name of a type",
    ),
    "missing shard": (
        lambda folder: write_index(folder, {"weight_map": {"a": "model-00001-of-00002.safetensors"}}),
        r"model-00001-of-00002\.safetensors.* not in the folder",
    ),
    "index of nothing": (
        lambda folder: write_index(folder, {"weight_map": {}}),
        r"model\.safetensors\.index\.json names no file with weights",
    ),
    "other names": (
        lambda folder: save_file({"encoder.block.0.weight": torch.ones(2)}, folder / WEIGHTS),
        r"encoder\.block\.0\.weight.*Roberta",
    ),
    "wrong shape": (
        lambda folder: edit_weights(folder, wide_classifier),
        r"classifier\.weight is \(5, 24\), not \(2, 24\).*ignore_mismatched_sizes",
    ),
    "integers": (
        lambda folder: edit_weights(folder, integer_weights),
        r"classifier\.weight in .* holds torch\.int8",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"no config\.json in .*; expected the folder of a"),
    "config is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"config\.json is not valid JSON",
    ),
    "config is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        r"config\.json holds no JSON object",
    ),
    "another architecture": (
        lambda folder: RobertaConfig().save_pretrained(folder),
        r"config\.json.* 'roberta'.* 'roberta-prelayernorm'",
    ),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    own_model(TAGGER).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(damage: str, checkpoint: Path) -> None:
    do, message = DAMAGE[damage]
    do(checkpoint)
    with pytest.raises(CheckpointError, match=message) as error:
        SINGLE_HEADS[TAGGER].from_pretrained(checkpoint)
    assert error.value.exit_code == 7
    assert str(checkpoint) in str(error.value)


def test_the_checkpoint_is_whole_before_it_is_damaged(checkpoint: Path) -> None:
    assert not any(SINGLE_HEADS[TAGGER].from_pretrained(checkpoint, output_loading_info=True)[1].values())


def test_a_function_that_torch_blocks_by_its_module_is_named(checkpoint: Path) -> None:
    (checkpoint / PICKLE).write_bytes(pickle.dumps({"payload": os.system}, protocol=2))
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=rf"unsafe.* {os.system.__module__}\.system"):
        SINGLE_HEADS[TAGGER].from_pretrained(checkpoint)


def test_the_reason_of_the_unpickler_is_passed_on_and_its_advice_is_not(checkpoint: Path) -> None:
    (checkpoint / PICKLE).write_bytes(b"\x80\x02=")
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"UnpicklingError: Unsupported operand 61") as refusal:
        SINGLE_HEADS[TAGGER].from_pretrained(checkpoint)
    assert "weights_only" not in str(refusal.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(*, zipped: bool, checkpoint: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    content = load_file(checkpoint / WEIGHTS) | {"payload": Payload(proof)}
    torch.save(content, checkpoint / PICKLE, _use_new_zipfile_serialization=zipped)
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is unsafe"):
        SINGLE_HEADS[TAGGER].from_pretrained(checkpoint)
    assert not proof.exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from([WEIGHTS, PICKLE, OLD_PICKLE]))
def test_damaged_bytes_always_give_a_checkpoint_error(data: st.DataObject, name: str, tmp_path: Path) -> None:
    state = {name: torch.arange(6.0).view(2, 3) for name in ("first", "second")}
    path = tmp_path / name.removeprefix("old ")
    if name == WEIGHTS:
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == PICKLE)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(CheckpointError):
        assert all(isinstance(tensor, torch.Tensor) for tensor in read_weights(tmp_path).values())
    path.unlink()


@pytest.mark.parametrize("value", [1.5, "many", None])
def test_a_config_value_of_a_wrong_type_is_refused(value: object, checkpoint: Path) -> None:
    edit_config(checkpoint, hidden_size=value)
    with pytest.raises(RplnModelError, match="hidden_size"):
        SINGLE_HEADS[TAGGER].from_pretrained(checkpoint)


WRONG: tuple[tuple[str, Any, str], ...] = (
    ("layer_norm_eps", float("nan"), "layer_norm_eps is nan; expected a number from 0 to 1"),
    ("layer_norm_eps", -1e-5, "layer_norm_eps is -1e-05; expected a number from 0 to 1"),
    ("layer_norm_eps", "1e-5", "layer_norm_eps is '1e-5'; expected a number"),
    ("initializer_range", -0.02, "initializer_range is -0.02; expected a number from 0 to 1000"),
    ("hidden_dropout_prob", 7, "hidden_dropout_prob is 7; expected a number from 0 to 1"),
    ("attention_probs_dropout_prob", None, "attention_probs_dropout_prob is None; expected a number from 0 to 1"),
    ("classifier_dropout", float("inf"), "classifier_dropout is inf; expected a number from 0 to 1, or null"),
    ("chunk_size_feed_forward", -1, "chunk_size_feed_forward is -1; expected a whole number from 0"),
    ("vocab_size", 2**63, "vocab_size is 9223372036854775808; expected a whole number from 1 to 16,777,216"),
    ("max_position_embeddings", 2**64, "max_position_embeddings is 18446744073709551616; expected a whole number"),
    ("num_hidden_layers", 2**31, "num_hidden_layers is 2147483648; expected a whole number from 1 to 1,000"),
    ("num_attention_heads", True, "num_attention_heads is True; expected a whole number"),
    ("intermediate_size", 0, "intermediate_size is 0; expected a whole number from 1"),
    ("is_decoder", "no", "is_decoder is 'no'; expected true or false"),
    ("tie_word_embeddings", 1, "tie_word_embeddings is 1; expected true or false"),
    ("architectures", 2, "architectures is 2; expected a list of texts, or null"),
    ("pruned_heads", {"0": 1}, "pruned_heads is {'0': 1}; expected an object with a list of heads for each layer"),
    ("pruned_heads", {"first": [1]}, "pruned_heads is {'first': [1]}; expected an object"),
    ("dtype", [], "dtype is []; expected the name of a type"),
    ("model_type", [], "describes a model of type []; expected 'roberta-prelayernorm'"),
    ("num_labels", -1, "num_labels is -1; expected a whole number from 0"),
    ("id2label", ["A", "B"], r"id2label is ['A', 'B']; expected an object with a text for each class"),
    ("id2label", {"0": 0, "1": 1}, r"id2label is {'0': 0, '1': 1}; expected an object with a text for each class"),
    ("id2label", {"0": "A", "1": None}, r"id2label is {'0': 'A', '1': None}; expected an object"),
    ("id2label", {"A": "0"}, r"id2label is {'A': '0'}; expected an object"),
    ("quantization_config", {"quant_method": "bitsandbytes"}, "has a quantization_config (bitsandbytes), but"),
)


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_a_field_of_the_config_with_a_wrong_value_is_named_with_what_it_may_hold(
    name: str, value: object, message: str, checkpoint: Path
) -> None:
    edit_config(checkpoint, **{name: value})
    with pytest.raises(CheckpointError, match=re.escape(message)) as error:
        SINGLE_HEADS[TAGGER].from_pretrained(checkpoint)
    assert f"{checkpoint / 'config.json'}" in str(error.value)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, 1e-12])
def test_the_ends_of_a_range_are_allowed(value: float, checkpoint: Path) -> None:
    edit_config(checkpoint, layer_norm_eps=value, hidden_dropout_prob=value, initializer_range=value)
    assert SINGLE_HEADS[TAGGER].from_pretrained(checkpoint).config.layer_norm_eps == value


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", r"\./nowhere does not exist.*config\.json"),
        ("/nowhere/at/all", "/nowhere/at/all does not exist"),
        (Path("nowhere"), "nowhere does not exist"),
        (Path(__file__), r"test_bad_checkpoints\.py is a file"),
        (__file__, r"test_bad_checkpoints\.py is a file"),
    ],
)
def test_a_path_to_no_folder_is_refused(source: str | Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_config(source)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_file_that_may_not_be_read_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    opened = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(weights, "safe_open", lambda path, **_: refuse(path))
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read \(Permission denied\).* permissions"):
        SINGLE_HEADS[TAGGER].from_pretrained(checkpoint)


@pytest.mark.parametrize(("content", "message"), [("[1]", "holds no JSON object"), ("{", "is not valid JSON")])
def test_a_damaged_generation_config_is_refused(content: str, message: str, tmp_path: Path) -> None:
    own_model("RobertaPreLayerNormForCausalLM", is_decoder=True).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"generation_config\.json {message}.*remove it"):
        SINGLE_HEADS["RobertaPreLayerNormForCausalLM"].from_pretrained(tmp_path)


def test_an_adapter_is_not_left_out_where_peft_is_missing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers loads the network without it, and says nothing."""
    monkeypatch.setattr("rpln_model.network.is_peft_available", lambda: False)
    (checkpoint / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds an adapter \(adapter_config\.json\).*pip install peft"):
        SINGLE_HEADS[TAGGER].from_pretrained(checkpoint)


def test_mismatched_sizes_can_be_ignored(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"classifier\.weight is \(2, 24\), not \(3, 24\); classifier\.bias is"):
        SINGLE_HEADS[TAGGER].from_pretrained(checkpoint, num_labels=3)
    model, info = SINGLE_HEADS[TAGGER].from_pretrained(
        checkpoint, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert names(info, "mismatched_keys") == {"classifier.weight", "classifier.bias"}
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model(random_ids(1, LENGTH)).logits.isfinite().all()


def test_a_given_config_of_another_architecture_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"'bert'.* 'roberta-prelayernorm'"):
        SINGLE_HEADS[TAGGER].from_pretrained(checkpoint, config=BertConfig())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_named(value: float, dtype: torch.dtype) -> None:
    model: Any = own_model(TAGGER)
    model.to(dtype)
    check_finite(model)
    with torch.no_grad():
        model.get_parameter("roberta_prelayernorm.encoder.layer.1.output.dense.weight")[3, 5] = value
        model.get_parameter("classifier.bias")[1] = value
    with pytest.raises(
        CheckpointError,
        match=r"NaN.* roberta_prelayernorm\.encoder\.layer\.1\.output\.dense\.weight, classifier",
    ):
        check_finite(model)


def test_the_largest_finite_values_pass() -> None:
    model = own_model(TAGGER).half()
    with torch.no_grad():
        model.get_parameter("classifier.bias").fill_(torch.finfo(torch.float16).max)
    check_finite(model)


def test_a_config_without_a_network_is_refused() -> None:
    for fields, message in (
        ({"hidden_act": "nonsense"}, "hidden_act is 'nonsense'; expected a callable or one of celu, elu, "),
        ({"hidden_act": "prelu"}, "An activation with weights of its own"),
        ({"position_embedding_type": "rotary"}, "position_embedding_type is 'rotary'; expected one of absolute, "),
        ({"num_attention_heads": 5}, "hidden_size 24 is not a multiple of num_attention_heads 5"),
        ({"pad_token_id": None}, "pad_token_id is None; expected a row of the vocabulary, 0 to 42"),
        ({"pad_token_id": 43}, "pad_token_id is 43; expected a row of the vocabulary, 0 to 42"),
        ({"max_position_embeddings": 2}, "max_position_embeddings 2 leaves no position after pad_token_id 1"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1; expected a whole number from 1 to 1,000"),
        ({"add_cross_attention": True}, "add_cross_attention needs is_decoder=True"),
        ({"type_vocab_size": 0}, "type_vocab_size is 0; expected a whole number from 1 to 16,777,216"),
    ):
        with pytest.raises(ConfigError, match=message):
            SINGLE_HEADS[TAGGER](tiny_config(**fields))


@pytest.mark.parametrize("name", ["sdpa", "flash_attention_2", "flex_attention", "kernels-community/flash-attn"])
def test_the_attention_that_a_config_names_does_not_matter(checkpoint: Path, name: str) -> None:
    edit_config(checkpoint, _attn_implementation=name, attn_implementation=name)
    model = HEADS[TAGGER].from_pretrained(checkpoint, config=load_config(checkpoint))
    assert torch.isfinite(model(input_ids=torch.tensor([[0, 5, 2]])).logits).all()
