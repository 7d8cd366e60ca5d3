"""Names that training tools and TensorFlow give to weights load as the network's own, with the same outputs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rpln_model import CheckpointError
from rpln_model.weights import read_weights
from tests.model.references import LENGTH, SINGLE_HEADS, difference, names, own_model, random_ids

TAGGER, CAUSAL = "RobertaPreLayerNormForTokenClassification", "RobertaPreLayerNormForCausalLM"
BASE = "RobertaPreLayerNormModel"
WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"

State = dict[str, Tensor]


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


def compiled_layers(state: State) -> State:
    """Return the names of a network whose layers are compiled one by one."""
    return {name.replace(".attention.", "._orig_mod.attention."): tensor for name, tensor in state.items()}


def from_tensorflow(state: State) -> State:
    renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return {
        next((name.removesuffix(new) + old for new, old in renamed.items() if name.endswith(new)), name): tensor
        for name, tensor in state.items()
    }


def lightning(state: State) -> dict[str, Any]:
    return {"epoch": 3, "state_dict": prefixed("model.")(state), "hyper_parameters": {"lr": 1e-4}}


FORMS: dict[str, Callable[[State], Any]] = {
    "data parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled and data parallel": prefixed("module._orig_mod."),
    "a Lightning module": prefixed("model."),
    "compiled layers": compiled_layers,
    "TensorFlow's names": from_tensorflow,
    "a wrapped state dict": lightning,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("architecture", [TAGGER, CAUSAL, BASE])
def test_weights_load_under_the_names_that_tools_give_them(architecture: str, form: str, tmp_path: Path) -> None:
    model = own_model(architecture, is_decoder=architecture == CAUSAL)
    model.save_pretrained(tmp_path)
    torch.save(FORMS[form](load_file(tmp_path / WEIGHTS)), tmp_path / PICKLE)
    (tmp_path / WEIGHTS).unlink()
    loaded, info = SINGLE_HEADS[architecture].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    ids = random_ids(3, LENGTH)
    assert difference(loaded(ids)[0], model(ids)[0]) == 0
    assert not loaded.training
    assert loaded.name_or_path == str(tmp_path)
    loaded.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / WEIGHTS).keys() == dict(model.named_parameters()).keys()


def test_options_and_the_generation_config_count_for_renamed_weights_too(tmp_path: Path) -> None:
    own_model(CAUSAL, is_decoder=True).save_pretrained(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    save_file(prefixed("module.")(state), tmp_path / WEIGHTS, {"format": "pt"})
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7}))
    loaded: Any = SINGLE_HEADS[CAUSAL].from_pretrained(tmp_path, dtype=torch.bfloat16, output_attentions=True)
    assert loaded.generation_config.max_new_tokens == 7
    assert loaded.config.output_attentions
    assert loaded.dtype == torch.bfloat16


def test_wrong_shapes_of_renamed_weights_are_refused_by_name(tmp_path: Path) -> None:
    own_model(TAGGER).save_pretrained(tmp_path)
    save_file(prefixed("module.")(load_file(tmp_path / WEIGHTS)), tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"classifier\.weight is \(2, 24\), not \(3, 24\)"):
        SINGLE_HEADS[TAGGER].from_pretrained(tmp_path, num_labels=3)


def test_what_lightning_trains_beside_the_model_has_no_place(tmp_path: Path) -> None:
    own_model(TAGGER).save_pretrained(tmp_path)
    state = prefixed("model.")(load_file(tmp_path / WEIGHTS)) | {"criterion.weight": torch.ones(2)}
    save_file(state, tmp_path / WEIGHTS, {"format": "pt"})
    info = SINGLE_HEADS[TAGGER].from_pretrained(tmp_path, output_loading_info=True)[1]
    assert names(info, "unexpected_keys") == {"criterion.weight"}


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    save_file({"classifier.bias": torch.ones(2), "module.classifier.bias": torch.zeros(2)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"classifier\.bias twice, as classifier\.bias and as module\.class"):
        read_weights(tmp_path)


def test_a_file_of_lightning_alone_is_refused_with_its_place(tmp_path: Path) -> None:
    own_model(TAGGER).save_pretrained(tmp_path)
    torch.save(lightning(load_file(tmp_path / WEIGHTS)), tmp_path / "last.ckpt")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"only as last\.ckpt of Lightning.*Copy it to .*pytorch_model\.bin"):
        SINGLE_HEADS[TAGGER].from_pretrained(tmp_path)
    (tmp_path / "last.ckpt").rename(tmp_path / PICKLE)
    assert SINGLE_HEADS[TAGGER].from_pretrained(tmp_path).num_parameters() > 0
