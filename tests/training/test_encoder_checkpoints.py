"""The embedded encoders are small, load in transformers 4.57 and 5, and are better than their baselines."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from rpln_export.plan.defaults import DEFAULTS, TAGGER, default_for_task
from rpln_model import (
    RobertaPreLayerNormForMaskedLM,
    RobertaPreLayerNormForMultipleChoice,
    RobertaPreLayerNormForQuestionAnswering,
    RobertaPreLayerNormForSequenceClassification,
    RobertaPreLayerNormModel,
)
from rpln_runtime.tasks import TASKS
from training.brown import Document, Word
from training.choices import baseline_accuracy, chooser_accuracy, encode_items, sentence_ends
from training.genres import Passage, encode_passages, likeness_by_network, likeness_by_words, nearest_alike
from training.mails import Mail
from training.masked_scores import masked_lm_scores
from training.questions import questions_of
from training.spam import beginnings_of, filter_scores
from training.spans import WordsBeside, answerer_scores, baseline_answerer_scores, encode_questions
from training.train_question_answerer import answer_to
from training.word_weights import TfIdf

_ENCODERS = ["fill-mask", "text-classification", "question-answering", "multiple-choice", "feature-extraction"]
_TASKS = pytest.mark.parametrize("task", _ENCODERS)
_SAMPLES = Path(__file__).parents[1] / "export" / "data"
_TEXTS = ["The dog didn't bark, did it?", '  “Curly” — and "plain" (1/4") quotes… ', "a <mask> b</s>", ""]


def _folder(task: str) -> Path:
    return DEFAULTS[task].folder


def _tokenizer(task: str) -> Tokenizer:
    return Tokenizer.from_file(str(_folder(task) / "tokenizer.json"))


def _metrics(task: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((_folder(task) / "metrics.json").read_text())
    return content


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (_SAMPLES / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def passages() -> list[dict[str, Any]]:
    """Return passages of six sentences, from files that no checkpoint was trained on."""
    return _lines("brown_test_passages.jsonl")


@pytest.fixture(scope="module")
def documents(passages: list[dict[str, Any]]) -> list[Document]:
    """Return the passages as documents of untagged words, two of each file."""
    return [
        Document(
            name=passage["document"],
            genre=passage["genre"],
            paragraphs=(tuple(tuple(Word(word, "X") for word in text.split()) for text in passage["sentences"]),),
        )
        for passage in passages
    ]


@pytest.fixture(scope="module")
def weights(passages: list[dict[str, Any]]) -> TfIdf:
    return TfIdf([text for passage in passages for text in passage["sentences"]])


# -- all of them -----------------------------------------------------------------------------------------------------


def test_every_task_has_a_checkpoint_of_its_architecture() -> None:
    assert set(DEFAULTS) == set(TASKS)
    for name, task in TASKS.items():
        config = json.loads((default_for_task(name).folder / "config.json").read_text())
        assert config["architectures"] == [task.architecture]
    assert default_for_task(None) == TAGGER
    assert len({default.name for default in DEFAULTS.values()}) == len(TASKS)


def test_all_weights_together_have_at_most_twenty_megabytes() -> None:
    assert sum((default.folder / "model.safetensors").stat().st_size for default in DEFAULTS.values()) <= 20_000_000


@_TASKS
def test_a_network_is_at_most_four_layers_of_128(task: str) -> None:
    config = json.loads((_folder(task) / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) <= (4, 128)
    assert config["max_position_embeddings"] == 128 + 2


@_TASKS
def test_the_weights_are_fp16_and_finite(task: str) -> None:
    with safe_open(_folder(task) / "model.safetensors", framework="pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118 - it is no mapping
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors)


@_TASKS
def test_the_tokenizer_of_transformers_equals_tokenizer_json(task: str) -> None:
    loaded, tokenizer = AutoTokenizer.from_pretrained(_folder(task)), _tokenizer(task)
    assert (loaded.model_max_length, loaded.mask_token_id) == (128, tokenizer.token_to_id("<mask>"))
    for text in _TEXTS:
        assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
        assert loaded(text, "And?")["input_ids"] == tokenizer.encode(text, "And?").ids


@_TASKS
def test_the_model_of_transformers_says_the_same(task: str) -> None:
    options = {"add_pooling_layer": False} if task == "feature-extraction" else {}
    architecture = TASKS[task].architecture
    theirs, info = getattr(transformers, architecture).from_pretrained(
        _folder(task), dtype=torch.float32, output_loading_info=True, **options
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = _OURS[task].from_pretrained(_folder(task), **options)
    input_ids = torch.tensor([_tokenizer(task).encode(_TEXTS[0]).ids])
    if task == "multiple-choice":
        input_ids = input_ids[:, None]
    with torch.inference_mode():
        pairs = zip(ours(input_ids).to_tuple(), theirs(input_ids).to_tuple(), strict=True)
        for own, their in pairs:
            torch.testing.assert_close(own, their, atol=1e-4, rtol=0)


_OURS: dict[str, Any] = {
    "fill-mask": RobertaPreLayerNormForMaskedLM,
    "text-classification": RobertaPreLayerNormForSequenceClassification,
    "question-answering": RobertaPreLayerNormForQuestionAnswering,
    "multiple-choice": RobertaPreLayerNormForMultipleChoice,
    "feature-extraction": RobertaPreLayerNormModel,
}


# -- beside their baselines ------------------------------------------------------------------------------------------


def test_the_fill_mask_model_finds_more_than_bigrams_do() -> None:
    scores = _metrics("fill-mask")["brown"]
    model, both, before = (scores[who] for who in ("model", "bigrams on both sides", "bigrams"))
    assert model["accuracy"] > both["accuracy"] > before["accuracy"]
    assert model["perplexity"] < both["perplexity"] < before["perplexity"]


@pytest.mark.parametrize("test", ["test", "test_of_32_tokens"])
def test_the_mail_filter_errs_less_than_naive_bayes(test: str) -> None:
    model, baseline = (_metrics("text-classification")[test][who]["f1"] for who in ("model", "naive Bayes"))
    assert 1 - model < 0.75 * (1 - baseline)


def test_the_question_answerer_answers_more_than_the_words_beside_a_match() -> None:
    test = _metrics("question-answering")["test"]
    assert test["model"]["exact"] > test["words beside"]["exact"] + 0.1


def test_the_chooser_finds_more_ends_of_sentences_than_tf_idf() -> None:
    ends = _metrics("multiple-choice")["test"]["ends"]
    assert ends["model"] > ends["tf-idf"] + 0.1


def test_the_embedder_tells_kind_and_genre_better_than_tf_idf() -> None:
    kind, genre = (_metrics("feature-extraction")["test"][trait] for trait in ("kind", "genre"))
    assert 1 - kind["model"] < 0.75 * (1 - kind["tf-idf"])
    assert genre["model"] > genre["tf-idf"] + 0.03


# -- held-out samples ------------------------------------------------------------------------------------------------


def test_masked_tokens_of_held_out_passages_are_found(passages: list[dict[str, Any]]) -> None:
    """The baseline's figure is that of all test files, because its bigrams need the training text."""
    model = RobertaPreLayerNormForMaskedLM.from_pretrained(_folder("fill-mask"))
    texts = [" ".join(passage["sentences"]) for passage in passages]
    scores = masked_lm_scores(model, [encoding.ids[:128] for encoding in _tokenizer("fill-mask").encode_batch(texts)])
    assert scores.masks > 1500
    assert scores.accuracy > _metrics("fill-mask")["brown"]["bigrams on both sides"]["accuracy"]


def test_held_out_mails_are_told_apart() -> None:
    """The baseline is naive Bayes on the first 32 tokens of all test mails. These mails are cut a little later."""
    mails = [
        Mail(name="", is_spam=one["spam"], subject="", text=one["text"]) for one in _lines("mails_test_sample.jsonl")
    ]
    assert [mail.is_spam for mail in mails].count(True) == len(mails) / 2 == 40
    model = RobertaPreLayerNormForSequenceClassification.from_pretrained(_folder("text-classification"))
    scores = filter_scores(model, beginnings_of(_tokenizer("text-classification"), mails))
    assert scores.f1 > _metrics("text-classification")["test_of_32_tokens"]["naive Bayes"]["f1"]


def test_questions_about_held_out_sentences_are_answered(weights: TfIdf) -> None:
    sentences = [
        tuple(Word(line["text"][start:end], tag) for start, end, tag in _tagged(line))
        for line in _lines("brown_test_sample.jsonl")
    ]
    document = Document(name="sample", genre="", paragraphs=(tuple(sentences),))
    questions = questions_of([document], rng=random.Random(0))
    model = RobertaPreLayerNormForQuestionAnswering.from_pretrained(_folder("question-answering"))
    scores = answerer_scores(model, encode_questions(_tokenizer("question-answering"), questions))
    assert scores.questions > 60
    assert scores.exact > baseline_answerer_scores(WordsBeside(weights, answer_words=2), questions).exact + 0.1


def _tagged(line: dict[str, Any]) -> list[tuple[int, int, str]]:
    """Return where each word starts and ends, and its tag. A word is followed by a space, a mark, or the next word."""
    starts = line["starts"]
    ends = [
        start + len(line["text"][start:following].rstrip())
        for start, following in zip(starts, [*starts[1:], len(line["text"])], strict=True)
    ]
    return [*zip(starts, ends, line["tags"].split(), strict=True)]


def test_ends_of_held_out_sentences_are_chosen(documents: list[Document], weights: TfIdf) -> None:
    items = sentence_ends(documents, rng=random.Random(0))
    model = RobertaPreLayerNormForMultipleChoice.from_pretrained(_folder("multiple-choice"))
    accuracy = chooser_accuracy(model, encode_items(_tokenizer("multiple-choice"), items, max_length=128))
    assert len(items) > 300
    assert accuracy > baseline_accuracy(weights.likeness, items) + 0.05


def test_the_nearest_held_out_passage_is_of_the_same_kind(passages: list[dict[str, Any]], weights: TfIdf) -> None:
    texts = [Passage(text=" ".join(one["sentences"]), document=one["document"], genre=one["genre"]) for one in passages]
    model = RobertaPreLayerNormModel.from_pretrained(_folder("feature-extraction"), add_pooling_layer=False)
    genres = sorted({passage.genre for passage in texts})
    encoded = encode_passages(_tokenizer("feature-extraction"), texts, genres=genres)
    own, by_words = (
        nearest_alike(likeness, texts, trait=lambda passage: passage.kind)
        for likeness in (likeness_by_network(model, encoded), likeness_by_words(weights, texts))
    )
    assert own[0] == len(texts) == 100
    assert own[1] > by_words[1] + 0.03


def test_the_answers_in_the_metrics_are_those_of_the_checkpoint() -> None:
    model = RobertaPreLayerNormForQuestionAnswering.from_pretrained(_folder("question-answering"))
    for one in _metrics("question-answering")["examples"]:
        assert answer_to(model, _tokenizer("question-answering"), one["question"], one["context"]) == one["answer"]
