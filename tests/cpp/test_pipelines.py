"""The C++ runtime gives the answers, logits and errors of Python's, on bundles of the embedded checkpoints."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import InputError, load, pipeline
from rpln_runtime.batching import feeds_from_encodings
from rpln_runtime.tokenization import Tokenizer, truncate
from tests.cpp.building import Build
from tests.cpp.messages import assert_says_the_same, words_of
from tests.cpp.texts import random_texts

Demo = Callable[..., Path]

TEXTS = [
    "The old man walked to the boat, and his crew watched the stars.",
    "",
    "I",
    "Ada Lovelace's café — naïve, 東京 and 😀 -- cost $12.50; isn't it!",
    "Free money!!! Click http://example.com now & win 1,000,000 dollars.",
    "\x00  \n tabs\tand\u3000spaces  ",
    " ".join(["The jury said it did find that many of the laws are outmoded."] * 40),
]
CONTEXT = (
    "The jury praised the officers of the city. Mr. Berry, whose wife is naïve, lives in Atlanta. He did not say. " * 6
)
QUESTIONS = [
    {"question": "Who praised the officers?", "context": "The jury praised the officers of the city."},
    {"question": "Where does Mr. Berry live?", "context": CONTEXT},
    {"question": "Who?", "context": "¡Él!  É"},
]
CHOICES = [
    {"prompt": "The man walked to the boat.", "choices": ["He sailed away.", "The tax was raised.", "Été."]},
    {"prompt": "It rained.", "choices": ["We got wet."]},
]
MASKED = ["The old <mask> walked.", "<mask>", "He<mask> to the<mask> of the<mask>.", "Été <mask> 東京."]
PAIRS = [{"text": "Hello."}, {"text": "Hello.", "text_pair": "Free money!"}, "Hello."]

CASES: list[tuple[str, dict[str, Any], Any]] = [
    *[
        ("token-classification", {"aggregation_strategy": s}, TEXTS)
        for s in ("none", "simple", "first", "average", "max")
    ],
    ("token-classification", {"ignore_labels": ["NOUN", "."], "stride": 3, "aggregation_strategy": "simple"}, TEXTS),
    ("token-classification", {"ignore_labels": []}, TEXTS[0]),
    ("token-classification", {"is_split_into_words": True, "ignore_labels": []}, TEXTS[0].split()),
    (
        "token-classification",
        {"is_split_into_words": True, "delimiter": " – ", "aggregation_strategy": "first", "stride": 3},
        [TEXTS[3].split(), ["He", "", " ", "<mask>", "New York", "été"], [], TEXTS[-1].split()],
    ),
    ("text-classification", {"truncation": True}, [*TEXTS, *PAIRS]),
    ("text-classification", {"truncation": True}, TEXTS[0]),
    ("text-classification", {"top_k": None, "truncation": True}, TEXTS),
    ("text-classification", {"top_k": 1, "function_to_apply": "sigmoid", "truncation": True}, TEXTS[-1]),
    ("text-classification", {"top_k": None, "function_to_apply": "none"}, PAIRS),
    ("question-answering", {}, QUESTIONS),
    ("question-answering", {"top_k": 4, "max_answer_len": 3}, QUESTIONS),
    ("question-answering", {"handle_impossible_answer": True, "align_to_words": False}, QUESTIONS[0]),
    ("question-answering", {"max_seq_len": 40, "doc_stride": 7, "top_k": 2}, QUESTIONS),
    ("multiple-choice", {}, CHOICES),
    ("multiple-choice", {"truncation": True}, CHOICES[0]),
    ("fill-mask", {}, MASKED),
    ("fill-mask", {"top_k": 3}, MASKED[2]),
    ("fill-mask", {"targets": ["Ġman", "Ġdog", "Ġboat"], "top_k": 9}, MASKED),
    *[("feature-extraction", {"pooling": p, "truncation": True}, TEXTS) for p in ("none", "first", "mean", "max")],
    ("feature-extraction", {"pooling": "mean", "normalize": True}, TEXTS[:5]),
]


def assert_same(mine: Any, theirs: Any, tolerance: float = 2e-5) -> None:
    """Check that both are equal, numbers within rounding. Where places are in characters, bytes are given, too."""
    if isinstance(theirs, dict):
        assert {key for key in mine if not key.startswith("byte_")} == theirs.keys()
        for key, value in theirs.items():
            assert_same(mine[key], value, tolerance)
    elif isinstance(theirs, float):
        assert math.isclose(mine, theirs, rel_tol=tolerance, abs_tol=tolerance), (mine, theirs)
    elif isinstance(theirs, list | tuple | np.ndarray):
        values = np.asarray(theirs) if isinstance(theirs, np.ndarray) else None
        if values is not None:
            np.testing.assert_allclose(np.asarray(mine), values, rtol=tolerance, atol=tolerance)
            return
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            assert_same(one, other, tolerance)
    else:
        assert mine == theirs


@pytest.mark.parametrize("task", dict.fromkeys(task for task, _, _ in CASES))
@pytest.mark.filterwarnings("ignore:the target ")  # what stands for it is to be the same
def test_answers_equal_those_of_python(built: Build, demo: Demo, task: str) -> None:
    folder = demo(task)
    python = pipeline(folder, provider="cpu", threads=1)
    for options, inputs in [(options, inputs) for name, options, inputs in CASES if name == task]:
        (answer,) = built.ask("answer", folder, [{"inputs": inputs, "options": options}], provider="cpu", threads=1)
        assert_same(answer, python(inputs, **options))


def test_answers_of_fp16_and_other_forms_of_logits_equal_those_of_python(built: Build, demo: Demo) -> None:
    tagger = demo("token-classification", precision="fp16")
    (answer,) = built.ask("answer", tagger, [{"inputs": TEXTS, "options": {}}], threads=1)
    assert_same(answer, pipeline(tagger, provider="cpu", threads=1)(TEXTS), tolerance=2e-3)
    for form in ("positions", "masked"):
        filler = demo("fill-mask", logits=form)
        (answer,) = built.ask("answer", filler, [{"inputs": MASKED, "options": {}}], threads=1, batch_size=3)
        assert_same(answer, pipeline(filler, provider="cpu", threads=1)(MASKED))


def test_places_in_bytes_are_those_in_characters(built: Build, demo: Demo) -> None:
    texts = random_texts(300, seed=2)
    (answers,) = built.ask(
        "answer", demo("token-classification"), [{"inputs": texts, "options": {"ignore_labels": []}}], threads=1
    )
    for text, tokens in zip(texts, answers, strict=True):
        for token in tokens:
            piece = text.encode()[token["byte_start"] : token["byte_end"]]
            assert piece.decode() == text[token["start"] : token["end"]]


def test_logits_equal_those_of_python(built: Build, demo: Demo) -> None:
    folder = demo("token-classification")
    session = load(folder, provider="cpu", threads=1)
    tokenizer = Tokenizer.from_bundle(folder, session.manifest)
    texts = random_texts(200, seed=4)
    requests, expected = [], []
    for at in range(0, len(texts), 8):
        encodings = [truncate(tokenizer.encode(text), 256) for text in texts[at : at + 8]]
        feeds = feeds_from_encodings(encodings, session.graph, session.manifest)
        expected.append(session.run(feeds)["logits"])
        requests.append({"feeds": {name: json_from(array) for name, array in feeds.items()}, "outputs": ["logits"]})
    for answer, logits in zip(built.ask("run", folder, requests, provider="cpu", threads=1), expected, strict=True):
        mine = np.array(answer["logits"]["values"], np.float32).reshape(answer["logits"]["shape"])
        # Both run the same graph in the same library, so the numbers are equal to the last bit.
        np.testing.assert_array_equal(mine, logits)


def json_from(array: np.ndarray) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype), "values": array.ravel().tolist()}


def feeds(ids: Any, **others: Any) -> dict[str, np.ndarray]:
    array = np.array(ids, np.int64)
    return {"input_ids": array, "attention_mask": np.ones_like(array)} | others


BAD_FEEDS = [
    feeds([[0, 7500]]),
    feeds([[0, -1], [3, 4]]),
    feeds([[0] * 300]),
    feeds(np.zeros((1, 0))),
    feeds([0, 1]),
    feeds([[0, 1]], attention_mask=np.ones((1, 3), np.int64)),
    feeds([[0, 1]], attention_mask=np.full((1, 2), 2)),
    feeds([[0, 1]], other=np.ones((1, 2), np.int64)),
    {"input_ids": np.ones((1, 2), np.int64)},
]


def test_bad_feeds_are_refused(built: Build, demo: Demo) -> None:
    folder = demo("token-classification")
    session = load(folder, provider="cpu")
    for bad in BAD_FEEDS:
        with pytest.raises(InputError) as refused:
            session.run(bad)
        request = {"feeds": {name: json_from(array) for name, array in bad.items()}, "outputs": ["logits"]}
        (answer,) = built.ask("run", folder, [request], threads=1)
        assert answer["code"] == InputError.exit_code
        assert_says_the_same(answer["error"], str(refused.value))


BAD_ITEMS: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "token-classification": [
        ("a", {"unknown": 1}),
        ("a", {"aggregation_strategy": "most"}),
        ("a", {"ignore_labels": "O"}),
        ("a" * 900, {"stride": 255}),
        ("a", {"stride": 256}),
        (5, {}),
        ([5], {}),
        ("a", {"is_split_into_words": True}),
        ([["a", 5]], {"is_split_into_words": True}),
        (["a"], {"is_split_into_words": True, "delimiter": 5}),
    ],
    "text-classification": [
        (TEXTS[-1], {}),
        ("a", {"top_k": 0}),
        ("a", {"top_k": "worst"}),
        ("a", {"top_k": 1.5}),
        ("a", {"truncation": "yes"}),
        ({"text": "a", "other": "b"}, {}),
    ],
    "question-answering": [
        ("a", {}),
        ({"question": "a"}, {}),
        ({"question": "", "context": "a"}, {}),
        ({"question": "a " * 90, "context": CONTEXT}, {}),
        (QUESTIONS[0], {"max_seq_len": 999}),
    ],
    "multiple-choice": [
        ({"prompt": "a", "choices": []}, {}),
        ({"prompt": "a", "choices": "bc"}, {}),
        ({"prompt": "a", "choices": [3]}, {}),
    ],
    "fill-mask": [
        ("no mask", {}),
        ("<mask>", {"targets": []}),
    ],
    "feature-extraction": [
        ("a", {"pooling": "median"}),
    ],
}
"""Items and options that a task refuses."""


@pytest.mark.parametrize("task", BAD_ITEMS)
def test_bad_items_and_options_are_refused(built: Build, demo: Demo, task: str) -> None:
    folder = demo(task)
    python = pipeline(folder, provider="cpu")
    for inputs, options in BAD_ITEMS[task]:
        with pytest.raises(InputError) as refused:
            python(inputs, **options)
        (answer,) = built.ask("answer", folder, [{"inputs": inputs, "options": options}], threads=1)
        assert answer["code"] == InputError.exit_code
        assert_says_the_same(answer["error"], str(refused.value))


def test_an_unknown_provider_is_refused(built: Build, demo: Demo) -> None:
    folder = demo("token-classification")
    (answer,) = built.ask("answer", folder, [{"inputs": "a", "options": {}}], provider="abacus")
    assert answer["code"] == 5
    assert {"abacus", "cpu", "cuda", "onnxruntime-tensorrt"} <= words_of(answer["error"])
    (answer,) = built.ask("answer", folder, [{"inputs": "a", "options": {}}], provider="cuda")
    assert answer["code"] == 5
    assert {"cuda", "CUDAExecutionProvider", "CPUExecutionProvider"} <= words_of(answer["error"])
