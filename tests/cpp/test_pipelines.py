"""The C++ runtime gives the answers, logits and errors of Python's, on bundles of the embedded checkpoints."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import InputError, load, pipeline
from rpln_runtime.batching import feeds_from_encodings
from rpln_runtime.manifest import MANIFEST_NAME, Sentences, files_of_folder, read_manifest, write_manifest
from rpln_runtime.tokenization import Tokenizer, truncate
from tests.cpp.building import Build
from tests.cpp.messages import assert_says_the_same, words_of
from tests.cpp.test_tokenizer import with_token_types
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
LONG_PAIRS = [{"text": "Hello.", "text_pair": TEXTS[-1]}, {"text": CONTEXT, "text_pair": TEXTS[-1]}]
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


def test_answers_of_int8_equal_those_of_python(built: Build, demo: Demo) -> None:
    folder = demo("token-classification", precision="int8")
    (answer,) = built.ask("answer", folder, [{"inputs": TEXTS, "options": {}}], provider="cpu", threads=1)
    assert_same(answer, pipeline(folder, provider="cpu", threads=1)(TEXTS))


def test_answers_with_quantized_embeddings_equal_those_of_python(built: Build, demo: Demo) -> None:
    folder = demo("fill-mask", precision="int8", quantize_embeddings=True, min_agreement=0.9)
    (answer,) = built.ask("answer", folder, [{"inputs": MASKED, "options": {}}], provider="cpu", threads=1)
    assert_same(answer, pipeline(folder, provider="cpu", threads=1)(MASKED))


def test_vectors_of_texts_equal_those_of_python(built: Build, demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "prompted"
    shutil.copytree(demo("feature-extraction", pooling=("mean", "max")), folder)
    manifest = read_manifest(folder)
    sentences = Sentences(
        poolings=("mean", "max"), max_length=20, prompts={"query": "Who? ", "none": ""}, default_prompt="query"
    )
    write_manifest(folder, dataclasses.replace(manifest, sentences=sentences))
    ours = pipeline(folder, provider="cpu", threads=1)
    for options in ({}, {"prompt_name": "none"}, {"prompt": "É ", "normalize": True}, {"truncation": None}):
        (answer,) = built.ask("answer", folder, [{"inputs": TEXTS, "options": options}], provider="cpu", threads=1)
        assert_same(answer, [vector.tolist() for vector in ours(TEXTS, **options)])
    wrong: tuple[dict[str, Any], ...] = (
        {"pooling": "mean"},
        {"prompt_name": "passage"},
        {"prompt": "a", "prompt_name": "none"},
        {"truncation": False},
    )
    for options in wrong:
        assert_refused_alike(built, folder, options)

    silent = dataclasses.replace(sentences, default_prompt=None, include_prompt=False)
    write_manifest(folder, dataclasses.replace(manifest, sentences=silent))
    for options in ({"prompt": "a"}, {"prompt_name": "query"}):
        assert_refused_alike(built, folder, options)
    (answer,) = built.ask("answer", folder, [{"inputs": TEXTS, "options": {"prompt_name": "none"}}], threads=1)
    assert_same(answer, [vector.tolist() for vector in ours(TEXTS, prompt_name="none")])


def assert_refused_alike(built: Build, folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refused:
        pipeline(folder, provider="cpu", threads=1)(TEXTS[-1:], **options)
    (answer,) = built.ask("answer", folder, [{"inputs": TEXTS[-1:], "options": options}], threads=1)
    assert answer["code"] == InputError.exit_code
    assert_says_the_same(answer["error"], str(refused.value))


LEFT_CASES: list[tuple[str, dict[str, Any], Any]] = [
    *[("token-classification", {"stride": 3, "aggregation_strategy": s}, TEXTS) for s in ("none", "simple")],
    ("text-classification", {"truncation": True, "top_k": None}, [TEXTS[-1], *LONG_PAIRS]),
    ("question-answering", {"max_seq_len": 40, "doc_stride": 7, "top_k": 2}, QUESTIONS),
    ("feature-extraction", {"truncation": True}, TEXTS),
]


@pytest.mark.parametrize("case", LEFT_CASES, ids=lambda case: case[0])
def test_texts_that_are_cut_on_the_left_give_the_answers_of_python(
    built: Build, demo: Demo, tmp_path: Path, case: tuple[str, dict[str, Any], Any]
) -> None:
    task, options, inputs = case
    folder = with_fields(demo(task), tmp_path / "left", truncation_side="left")
    expected = pipeline(folder, provider="cpu", threads=1)(inputs, **options)
    (answer,) = built.ask("answer", folder, [{"inputs": inputs, "options": options}], provider="cpu", threads=1)
    assert_same(answer, expected)
    with pytest.raises(AssertionError):  # the inputs are long enough for the side to show
        assert_same(answer, pipeline(demo(task), provider="cpu", threads=1)(inputs, **options))


def test_token_types_are_fed_or_left_out_as_in_python(built: Build, demo: Demo, tmp_path: Path) -> None:
    """The network has one token type, so that it refuses the types of a pair if it gets them."""
    typed = with_fields(demo("text-classification", inputs=("token_type_ids",)), tmp_path / "typed")
    path = typed / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    with_token_types(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    files = [dataclasses.asdict(file) for file in files_of_folder(typed)]
    folder = with_fields(typed, tmp_path / "fed", token_types=True, files=files)
    (answer,) = built.ask("answer", folder, [{"inputs": PAIRS, "options": {}}], provider="cpu", threads=1)
    with pytest.raises(InputError, match="token_type_ids") as refused:
        pipeline(folder, provider="cpu", threads=1)(PAIRS)
    assert_says_the_same(answer["error"], str(refused.value))
    left_out = with_fields(folder, tmp_path / "left out", token_types=False)
    (answer,) = built.ask("answer", left_out, [{"inputs": PAIRS, "options": {}}], provider="cpu", threads=1)
    assert_same(answer, pipeline(left_out, provider="cpu", threads=1)(PAIRS))


def with_fields(bundle: Path, folder: Path, **fields: Any) -> Path:
    """Copy a bundle to `folder` with other fields in its manifest."""
    shutil.copytree(bundle, folder)
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | fields), encoding="utf-8")
    return folder


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


def test_spaces_that_a_mask_takes_along_are_no_tokens(built: Build, demo: Demo) -> None:
    """A text of far more bytes than the model takes tokens fits, where the bytes are spaces before a mask."""
    folder, text = demo("fill-mask"), "The old man walked to the" + " " * 100_000 + "<mask>."
    (answer,) = built.ask("answer", folder, [{"inputs": text, "options": {}}], provider="cpu", threads=1)
    assert_same(answer, pipeline(folder, provider="cpu", threads=1)(text))


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
        ("a" * 20_000, {}),
        ({"text": "a", "text_pair": "\u3042" * 20_000}, {}),
    ],
    "question-answering": [
        ("a", {}),
        ({"question": "a"}, {}),
        ({"question": "", "context": "a"}, {}),
        ({"question": "a " * 90, "context": CONTEXT}, {}),
        (QUESTIONS[0], {"max_seq_len": 999}),
        ({"question": "a" * 20_000, "context": "a"}, {}),
    ],
    "multiple-choice": [
        ({"prompt": "a", "choices": []}, {}),
        ({"prompt": "a", "choices": "bc"}, {}),
        ({"prompt": "a", "choices": [3]}, {}),
        ({"prompt": "a" * 20_000, "choices": ["b"]}, {}),
    ],
    "fill-mask": [
        ("no mask", {}),
        ("<mask>", {"targets": []}),
        (" " * 20_000 + "a" * 20_000 + " <mask>", {}),
    ],
    "feature-extraction": [
        ("a", {"pooling": "median"}),
        ("a" * 20_000, {}),
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


def test_a_provider_that_only_python_has_is_refused(built: Build, demo: Demo) -> None:
    folder = demo("token-classification")
    for provider in ("tensorrt", "tensorrt-rtx", "openvino"):
        (answer,) = built.ask("answer", folder, [{"inputs": "a", "options": {}}], provider=provider)
        assert answer == {
            "error": f'only the Python runtime has the provider "{provider}". In C++, choose one of cpu, cuda, '
            "onnxruntime-tensorrt.",
            "code": 5,
        }
