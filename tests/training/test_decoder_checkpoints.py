"""The embedded decoders are small, load in transformers 4.57 and 5, and are as good as their cards say."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers import EncoderDecoderModel as TheirEncoderDecoderModel

import rpln_export
from rpln_model import EncoderDecoderModel, RobertaPreLayerNormForCausalLM
from training.perplexity import surprise_of_network
from training.restoration import bare_text
from training.restoration_scores import restoration_scores
from training.restoring import restored_texts
from training.windows import Stream

_CHECKPOINTS = Path(rpln_export.__file__).parent / "default_checkpoints"
_WRITER = _CHECKPOINTS / "text-generation"
_RESTORER = _CHECKPOINTS / "text2text-generation"
_FOLDERS = pytest.mark.parametrize("folder", [_WRITER, _RESTORER], ids=lambda folder: folder.name)

_SAMPLE = Path(__file__).parents[1] / "export" / "data" / "brown_test_sample.jsonl"
_TEXTS = ["The dog didn't bark, did it?", '  “Curly” — and "plain" (1/4") quotes… ', "a <mask> b</s>", ""]
_BARE = ["the old man walked to the boat and his crew watched the stars", "mr fisk came to new york in may"]


def _metrics(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _held_out_sentences() -> list[str]:
    texts = [json.loads(line)["text"] for line in _SAMPLE.read_text().splitlines()]
    return [text for text in texts if not set(text) & set("\"()[]'")]


def _theirs(model_class: Any, folder: Path) -> Any:
    """Return transformers' model of a folder, which must hold exactly the weights of the model."""
    model, info = model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


@pytest.fixture(scope="module")
def writer() -> RobertaPreLayerNormForCausalLM:
    return RobertaPreLayerNormForCausalLM.from_pretrained(_WRITER)


@pytest.fixture(scope="module")
def restorer() -> EncoderDecoderModel:
    return EncoderDecoderModel.from_pretrained(_RESTORER)


@_FOLDERS
def test_a_folder_has_at_most_four_megabytes(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4_000_000


@_FOLDERS
def test_the_weights_are_fp16_and_finite(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118 - it is no mapping
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize(("folder", "ends"), [(_WRITER, False), (_RESTORER, True)], ids=["writer", "restorer"])
def test_the_tokenizer_of_transformers_equals_tokenizer_json(folder: Path, ends: bool) -> None:
    loaded, tokenizer = AutoTokenizer.from_pretrained(folder), _tokenizer(folder)
    for text in _TEXTS:
        expected = tokenizer.encode(text)
        assert loaded(text)["input_ids"] == expected.ids
        assert loaded.decode(expected.ids) == tokenizer.decode(expected.ids, skip_special_tokens=False)
    ids = loaded("Yes")["input_ids"]
    assert (ids[0], ids[-1] == loaded.eos_token_id) == (0, ends)


@pytest.mark.parametrize(("folder", "length"), [(_WRITER, 256), (_RESTORER, 192)], ids=["writer", "restorer"])
def test_the_limit_is_the_position_tables(folder: Path, length: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    rows = {part["max_position_embeddings"] for part in (config.get("encoder", config), config.get("decoder", config))}
    assert rows == {length + 2}
    assert AutoTokenizer.from_pretrained(folder).model_max_length == length
    assert GenerationConfig.from_pretrained(folder).max_length == length


@_FOLDERS
def test_generation_begins_and_ends_with_the_right_tokens(folder: Path) -> None:
    settings, tokenizer = GenerationConfig.from_pretrained(folder), _tokenizer(folder)
    assert tokenizer.id_to_token(settings.eos_token_id) == "</s>"
    assert tokenizer.id_to_token(settings.pad_token_id) == "<pad>"
    start = settings.bos_token_id if folder == _WRITER else settings.decoder_start_token_id
    assert tokenizer.id_to_token(start) == "<s>"


def test_the_writer_of_transformers_says_the_same(writer: RobertaPreLayerNormForCausalLM) -> None:
    theirs = _theirs(AutoModelForCausalLM, _WRITER)
    input_ids = torch.tensor([_tokenizer(_WRITER).encode(_TEXTS[0]).ids])
    with torch.inference_mode():
        torch.testing.assert_close(writer(input_ids).logits, theirs(input_ids).logits, atol=1e-4, rtol=0)


def test_the_restorer_of_transformers_writes_the_same(restorer: EncoderDecoderModel) -> None:
    theirs = _theirs(TheirEncoderDecoderModel, _RESTORER)
    tokenizer = _tokenizer(_RESTORER)
    encodings = [tokenizer.encode(text).ids for text in _BARE]
    written = [theirs.generate(torch.tensor([ids]), do_sample=False)[0].tolist() for ids in encodings]
    expected = [tokenizer.decode(ids).strip() for ids in written]
    assert restored_texts(restorer, tokenizer, _BARE, max_length=192) == expected


def test_the_names_of_the_restorers_weights_are_those_of_an_encoder_decoder() -> None:
    with safe_open(_RESTORER / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
    assert {".".join(name.split(".")[:2]) for name in names} == {
        *["encoder.embeddings", "encoder.encoder", "encoder.LayerNorm", "encoder.pooler"],
        *["decoder.roberta_prelayernorm", "decoder.lm_head"],
    }
    assert "decoder.roberta_prelayernorm.encoder.layer.1.crossattention.self.key.weight" in names


def test_the_writer_foretells_better_than_bigrams() -> None:
    metrics = _metrics(_WRITER)
    assert metrics["test"]["token_perplexity"] < 0.8 * metrics["bigram"]["token_perplexity"]


def test_the_restorer_restores_more_than_word_by_word() -> None:
    metrics = _metrics(_RESTORER)
    test, baseline = (metrics[name]["f1"] for name in ("test", "baseline"))
    assert test > baseline + 0.025
    test_marks, baseline_marks = (metrics[name]["f1_of"]["marks"] for name in ("test", "baseline"))
    assert test_marks > baseline_marks + 0.05


def test_the_writer_foretells_held_out_sentences(writer: RobertaPreLayerNormForCausalLM) -> None:
    """The card's figure includes the sentences before, which are not given here."""
    encodings = _tokenizer(_WRITER).encode_batch(_held_out_sentences(), add_special_tokens=False)
    streams = [Stream(sentences=(tuple(encoding.ids),), words=1) for encoding in encodings]
    surprise = surprise_of_network(writer, streams, length=256)
    assert surprise.tokens > 2000
    assert surprise.nats / surprise.tokens < math.log(_metrics(_WRITER)["test"]["token_perplexity"]) + 0.3


def test_the_restorer_restores_held_out_sentences(restorer: EncoderDecoderModel) -> None:
    texts = _held_out_sentences()
    bare = [bare_text(text) for text in texts]
    scores = restoration_scores(texts, restored_texts(restorer, _tokenizer(_RESTORER), bare, max_length=192))
    assert scores.words > 1500
    assert scores.both.f1 > _metrics(_RESTORER)["test"]["f1"] - 0.05
