"""The embedded default checkpoint is small, loads in transformers 4.57 and 5, and tags as well as its card says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForTokenClassification, AutoTokenizer

from rpln_export.plan.defaults import DEFAULT_CHECKPOINT
from rpln_model import RobertaPreLayerNormForTokenClassification

_SAMPLE = Path(__file__).parents[1] / "data" / "brown_test_sample.jsonl"
_LEAST_ACCURACY = 0.945
_TEXTS = [
    "The dog didn't bark, did it?",
    '  “Curly” — and "plain" (1/4") quotes… ',
    "naïve Zürich 日本 🙂",
    "a <mask> b</s>",
    "",
]


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEFAULT_CHECKPOINT / "metrics.json").read_text())
    return content


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEFAULT_CHECKPOINT / "tokenizer.json"))


@pytest.fixture(scope="module")
def model() -> RobertaPreLayerNormForTokenClassification:
    return RobertaPreLayerNormForTokenClassification.from_pretrained(DEFAULT_CHECKPOINT)


def test_the_folder_has_at_most_four_megabytes() -> None:
    assert sum(path.stat().st_size for path in DEFAULT_CHECKPOINT.iterdir()) <= 4_000_000


def test_the_weights_are_fp16_and_finite() -> None:
    with safe_open(DEFAULT_CHECKPOINT / "model.safetensors", framework="pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118 - it is no mapping
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_the_tokenizer_of_transformers_equals_tokenizer_json(tokenizer: Tokenizer) -> None:
    loaded = AutoTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
    assert loaded.model_max_length == 256
    for text in _TEXTS:
        expected = tokenizer.encode(text)
        actual = loaded(text, return_offsets_mapping=True)
        assert (actual["input_ids"], actual["offset_mapping"]) == (expected.ids, expected.offsets)


def test_the_model_of_transformers_says_the_same(
    tokenizer: Tokenizer, model: RobertaPreLayerNormForTokenClassification
) -> None:
    loaded = AutoModelForTokenClassification.from_pretrained(DEFAULT_CHECKPOINT, dtype=torch.float32)
    input_ids = torch.tensor([tokenizer.encode(_TEXTS[0]).ids])
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids).logits, loaded(input_ids).logits, atol=1e-5, rtol=0)


def test_an_input_of_256_tokens_is_served(model: RobertaPreLayerNormForTokenClassification) -> None:
    with torch.inference_mode():
        assert model(torch.full((1, 256), 5)).logits.isfinite().all()


def test_the_card_and_the_metrics_say_it_is_good_enough(metrics: dict[str, Any]) -> None:
    accuracy = metrics["test"]["accuracy"]
    assert accuracy >= _LEAST_ACCURACY
    assert f"**{accuracy:.2%}**" in (DEFAULT_CHECKPOINT / "README.md").read_text()


def test_it_tags_held_out_sentences(tokenizer: Tokenizer, model: RobertaPreLayerNormForTokenClassification) -> None:
    tags = json.loads((DEFAULT_CHECKPOINT / "config.json").read_text())["id2label"]
    right = words = 0
    for line in _SAMPLE.read_text().splitlines():
        sentence = json.loads(line)
        encoding = tokenizer.encode(sentence["text"])
        with torch.inference_mode():
            labels = model(torch.tensor([encoding.ids])).logits[0].argmax(-1).tolist()
        # Tokens are read from the last to the first, so that a word gets the tag of its first token.
        tokens = [*zip(encoding.offsets, labels, strict=True)]
        label_at = {start: label for (start, end), label in reversed(tokens) if end > start}
        for start, tag in zip(sentence["starts"], sentence["tags"].split(), strict=True):
            right += tags[str(label_at[start])] == tag
            words += 1
    assert words > 3000
    assert right / words >= _LEAST_ACCURACY
