"""Checkpoints of every version of fairseq give fairseq's logits. Those of other networks are refused."""

import argparse
import datetime as dt
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rpln_model import network_from_fairseq
from rpln_model.config import activation
from rpln_model.errors import CheckpointError
from tests.fairseq_files import (
    CLASSIFIER,
    MASKED_LM,
    NO_EMBEDDING_NORM,
    TOLERANCE,
    Alter,
    altered,
    expected,
    settings,
)

BODY = "encoder.sentence_encoder"


def logits(model: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask).long()).logits.numpy()
    return found


def same_logits(path: Path) -> None:
    """Check that a masked LM gives fairseq's logits."""
    ids, real, theirs = expected("masked_lm")
    ours = logits(network_from_fairseq(path), ids, real)
    np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=TOLERANCE)


def test_masked_lm_gives_the_logits_of_fairseq() -> None:
    same_logits(MASKED_LM)


def test_classifier_gives_the_logits_of_fairseq() -> None:
    ids, real, theirs = expected("sentence_prediction")
    model = network_from_fairseq(CLASSIFIER)
    assert type(model).__name__ == "RobertaPreLayerNormForSequenceClassification"
    np.testing.assert_allclose(logits(model, ids, real), theirs, rtol=0, atol=TOLERANCE)


def test_a_classifier_is_a_masked_lm_too() -> None:
    model = network_from_fairseq(CLASSIFIER, classification=False)
    assert type(model).__name__ == "RobertaPreLayerNormForMaskedLM"
    assert not [name for name in model.state_dict() if name.startswith("classifier")]


def test_config_says_what_the_training_said() -> None:
    config = network_from_fairseq(MASKED_LM).config
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (2, 4, 256)
    assert (config.vocab_size, config.max_position_embeddings, config.type_vocab_size) == (1009, 66, 1)
    assert (config.layer_norm_eps, config.hidden_act, config.tie_word_embeddings) == (1e-5, "gelu", True)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.classifier_dropout) == (0.1, 0.1, 0)


# files of every version


def as_dict(content: dict[str, Any]) -> None:
    content["cfg"]["model"] = dict(settings(content))


def as_old(content: dict[str, Any]) -> None:
    """Change the content to what fairseq 0.9 wrote."""
    content["args"] = argparse.Namespace(**settings(content))
    del content["cfg"]
    content["model"] = {old_name(name): tensor for name, tensor in content["model"].items()}


def old_name(name: str) -> str:
    return re.sub(r"^encoder\.", "decoder.", name).replace("layernorm_embedding", "emb_layer_norm")


def without_version(content: dict[str, Any]) -> None:
    del content["model"][f"{BODY}.version"]


@pytest.mark.parametrize("alter", [as_dict, as_old, without_version])
def test_every_version_of_the_file_is_read(alter: Alter, tmp_path: Path) -> None:
    same_logits(altered(MASKED_LM, alter, tmp_path))


def test_a_file_that_is_no_zip_is_read(tmp_path: Path) -> None:
    same_logits(altered(MASKED_LM, lambda content: None, tmp_path, zipped=False))


def test_weights_keep_their_type(tmp_path: Path) -> None:
    def halve(content: dict[str, Any]) -> None:
        content["model"] = {name: tensor.half() for name, tensor in content["model"].items()}

    model = network_from_fairseq(altered(MASKED_LM, halve, tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


def test_a_class_that_the_user_allowed_stays_allowed() -> None:
    with torch.serialization.safe_globals([argparse.Namespace]):
        network_from_fairseq(MASKED_LM)
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    network_from_fairseq(MASKED_LM)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_projection_of_its_own_is_kept(tmp_path: Path) -> None:
    def untie(content: dict[str, Any]) -> None:
        content["model"]["encoder.lm_head.weight"] = 2 * content["model"]["encoder.lm_head.weight"]
        content["model"]["encoder.lm_head.bias"].zero_()

    ids, real, theirs = expected("masked_lm")
    bias = network_from_fairseq(MASKED_LM).get_parameter("lm_head.bias").detach().numpy()
    model = network_from_fairseq(altered(MASKED_LM, untie, tmp_path))
    assert not model.config.tie_word_embeddings
    np.testing.assert_allclose(logits(model, ids, real)[real], 2 * (theirs - bias)[real], rtol=0, atol=4 * TOLERANCE)


def by_its_formula(name: str, x: torch.Tensor) -> torch.Tensor:
    tanh = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    erf = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    relu = x * (x > 0)
    return {
        "gelu": erf,
        "gelu_accurate": tanh,
        "gelu_fast": tanh,
        "relu": relu,
        "relu_squared": relu * relu,
        "tanh": (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
        "linear": x,
    }[name]


@pytest.mark.parametrize("name", ["gelu", "gelu_accurate", "gelu_fast", "relu", "relu_squared", "tanh", "linear"])
def test_activations_are_those_of_fairseq(name: str, tmp_path: Path) -> None:
    path = altered(MASKED_LM, lambda content: settings(content).update(activation_fn=name), tmp_path)
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    config: Any = network_from_fairseq(path).config
    found = activation(config)(x)
    torch.testing.assert_close(found, by_its_formula(name, x), rtol=0, atol=1e-12)


# classification heads


def with_a_second_head(content: dict[str, Any]) -> None:
    own = "classification_heads.sentence_classification_head."
    for name in [name for name in content["model"] if name.startswith(own)]:
        content["model"][f"classification_heads.mnli.{name.removeprefix(own)}"] = content["model"][name] + 1


def test_of_several_heads_the_trained_one_is_taken(tmp_path: Path) -> None:
    def trained_on_mnli(content: dict[str, Any]) -> None:
        with_a_second_head(content)
        settings(content)["classification_head_name"] = "mnli"

    def bias(path: Path) -> torch.Tensor:
        return network_from_fairseq(path).get_parameter("classifier.out_proj.bias")

    own = bias(altered(CLASSIFIER, with_a_second_head, tmp_path))
    assert torch.equal(own, bias(CLASSIFIER))
    other = bias(altered(CLASSIFIER, trained_on_mnli, tmp_path))
    assert torch.equal(other, own + 1)


def test_a_regression_head_says_so(tmp_path: Path) -> None:
    path = altered(CLASSIFIER, lambda content: settings(content).update(regression_target=True), tmp_path)
    assert network_from_fairseq(path).config.problem_type == "regression"
    assert network_from_fairseq(path, classification=False).config.problem_type is None


# refusals


def without(name: str) -> Alter:
    return lambda content: content["model"].pop(name)


def post_norm(content: dict[str, Any]) -> None:
    for kind in ("weight", "bias"):
        del content["model"][f"{BODY}.layer_norm.{kind}"]


def strangers(content: dict[str, Any]) -> None:
    for name in ("zeta", "alpha"):
        content["model"][f"encoder.{name}.weight"] = torch.zeros(2)


def unnamed_heads(content: dict[str, Any]) -> None:
    with_a_second_head(content)
    settings(content)["classification_head_name"] = "other"


def cut_weight(content: dict[str, Any]) -> None:
    name = f"{BODY}.layers.1.fc2.weight"
    content["model"][name] = content["model"][name][:, :9]


def foreign_class(content: dict[str, Any]) -> None:
    content["extra_state"]["when"] = dt.date(2022, 2, 2)


REFUSED: dict[str, tuple[Path, Alter, str]] = {
    "no embedding norm": (
        NO_EMBEDDING_NORM,
        lambda content: None,
        r"embeddings.* LayerNorm.*--arch roberta_prenorm",
    ),
    "post-LN": (MASKED_LM, post_norm, "LayerNorms come after each part of a layer"),
    "unknown": (MASKED_LM, strangers, r"does not have: encoder\.alpha\.weight, encoder\.zeta\.weight\. Without these"),
    "missing": (
        MASKED_LM,
        without(f"{BODY}.layers.1.fc2.bias"),
        rf"incomplete.* {BODY}\.layers\.1\.fc2\.bias",
    ),
    "no positions": (MASKED_LM, without(f"{BODY}.embed_positions.weight"), r"lacks .*embed_positions\.weight"),
    "shape": (MASKED_LM, cut_weight, r"encoder\.layer\.1\.output\.dense\.weight is \(64, 9\), not \(64, 256\)"),
    "class": (MASKED_LM, foreign_class, r"is unsafe: its pickle calls for datetime\.date"),
    "no settings": (MASKED_LM, lambda content: content.pop("cfg"), "does not say how its model was made"),
    "settings are a tensor": (
        MASKED_LM,
        lambda content: content.update(args=torch.ones(3), cfg=torch.ones(3)),
        "does not say how its model was made",
    ),
    "settings without names": (
        MASKED_LM,
        lambda content: content.update(args={7: 1}, cfg=None),
        "does not say how its model was made",
    ),
    "no heads": (
        MASKED_LM,
        lambda content: settings(content).pop("encoder_attention_heads"),
        "does not say encoder_attention_heads",
    ),
    "activation": (
        MASKED_LM,
        lambda content: settings(content).update(activation_fn="swish"),
        "activation_fn='swish'.* gelu, ",
    ),
    "scaled embeddings": (
        MASKED_LM,
        lambda content: settings(content).update(no_scale_embedding=False),
        "trained with no_scale_embedding=False",
    ),
    "pooler": (
        CLASSIFIER,
        lambda content: settings(content).update(pooler_activation_fn="relu"),
        "pooler_activation_fn='relu'.* 'tanh'",
    ),
    "unnamed heads": (CLASSIFIER, unnamed_heads, "has the classification heads sentence_classification_head, mnli"),
    "numbers for names": (
        MASKED_LM,
        lambda content: content["model"].update({7: torch.zeros(2)}),
        "is no checkpoint of fairseq's",
    ),
    "quantized": (
        MASKED_LM,
        lambda content: content["model"].update(
            {f"{BODY}.layers.0.fc1.weight": torch.zeros(256, 64, dtype=torch.int8)}
        ),
        "holds torch.int8; expected float32",
    ),
    "no matrix": (
        MASKED_LM,
        lambda content: content["model"].update({f"{BODY}.embed_tokens.weight": torch.zeros(())}),
        r"has the shape \(\); expected a matrix",
    ),
    "dropout": (
        MASKED_LM,
        lambda content: settings(content).update(attention_dropout="0.1"),
        "attention_dropout='0.1'; expected a share",
    ),
    "no tensors": (MASKED_LM, lambda content: content.pop("model"), "is no checkpoint of fairseq's"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_no_such_network_is_refused(case: str, *, zipped: bool, tmp_path: Path) -> None:
    source, alter, says = REFUSED[case]
    path = altered(source, alter, tmp_path, zipped=zipped)
    with pytest.raises(CheckpointError, match=says) as refusal:
        network_from_fairseq(path)
    assert str(path) in str(refusal.value)


def test_a_pooler_that_is_not_taken_may_be_any(tmp_path: Path) -> None:
    path = altered(CLASSIFIER, lambda content: settings(content).update(pooler_activation_fn="relu"), tmp_path)
    assert network_from_fairseq(path, classification=False).config.num_hidden_layers == 2


@pytest.mark.parametrize("keep", [0, 100, 300_000])
def test_a_truncated_file_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_best.pt"
    path.write_bytes(MASKED_LM.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"checkpoint_best\.pt is truncated, corrupt or unsafe"):
        network_from_fairseq(path)
