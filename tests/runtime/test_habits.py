"""What people give: numpy's values, None, bytes, empty texts, and pipelines that are sent to other processes."""

import copy
import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import GenerationOptions, Generator, InputError, generator, load, pipeline
from rpln_runtime.corpus import run_corpus
from rpln_runtime.options import plain
from rpln_runtime.session import Session
from tests.runtime.bundles import CORPUS, Bundle
from tests.runtime.comparison import assert_same
from tests.runtime.decoders import DecoderBundle

TEXT = CORPUS[0]


def test_values_of_numpy_become_pythons_own() -> None:
    given = {"a": np.int64(3), "b": np.array(0.5), "c": np.array(["x", "y"]), "d": (np.bool_(1), [np.str_("z")])}
    assert json.dumps(plain(given)) == '{"a": 3, "b": 0.5, "c": ["x", "y"], "d": [true, ["z"]]}'


def numpy(value: Any) -> Any:
    """Return a value as numpy's, whose types the signatures do not promise."""
    return np.array(value)


def test_items_and_options_may_be_values_of_numpy(bundle_of: Callable[..., Bundle]) -> None:
    classify = pipeline(bundle_of("text-classification").folder, top_k=np.int64(2), batch_size=numpy(4))
    expected = pipeline(bundle_of("text-classification").folder, top_k=2)(list(CORPUS), truncation=True)
    assert_same(classify(np.array(CORPUS), truncation=np.bool_(1), batch_size=np.array(1)), expected)
    assert_same(classify(np.array(TEXT)), expected[0])
    assert_same(classify(np.str_(TEXT)), expected[0])
    assert_same(classify({"text": np.array(TEXT)}), expected[0])
    choose = pipeline(bundle_of("multiple-choice").folder, threads=numpy(1))
    choices = ["It rained.", "It did not."]
    assert_same(choose(prompt=TEXT, choices=np.array(choices)), choose(prompt=TEXT, choices=choices))


def test_prompts_and_options_of_generating_may_be_values_of_numpy(causal_lm: DecoderBundle) -> None:
    expected = generator(causal_lm.folder, max_new_tokens=3)([TEXT, "a"])
    go_on = generator(causal_lm.folder, max_new_tokens=np.int64(3), batch_size=numpy(2), threads=numpy(1))
    assert go_on(numpy([TEXT, "a"])) == expected
    assert go_on(numpy("a")) == expected[1]
    assert "".join(go_on.stream(np.str_("a"), return_full_text=np.bool_(0))) == expected[1][0]["generated_text"][1:]
    ids = [[0, 5, 6], [0, 7, 8]]
    for tokens in (numpy(ids), [numpy(row) for row in ids], [list(numpy(row)) for row in ids]):
        found = go_on.tokens(tokens, do_sample=True, top_p=np.float32(0.5), seed=np.array(7))
        assert found == go_on.tokens(ids, do_sample=True, top_p=0.5, seed=7)


def test_values_of_numpy_that_do_not_fit_are_refused_as_others_are(bundle_of: Callable[..., Bundle]) -> None:
    classify = pipeline(bundle_of("text-classification").folder)
    for options, says in (
        ({"top_k": np.float64(2.5)}, r"top_k is 2\.5, expected"),
        ({"top_k": np.array([1, 2])}, r"top_k is \[1, 2\], expected"),
        ({"truncation": np.int64(1)}, "truncation is 1, expected True or False"),
    ):
        with pytest.raises(InputError, match=says):
            classify(TEXT, **options)
    for inputs in (np.array(3), np.array([1.5]), np.int64(7)):
        with pytest.raises(InputError, match=r"is of type (int|float), expected a"):
            classify(inputs)


@pytest.mark.parametrize("value", [None, b"text", bytearray(b"text"), 3], ids=repr)
def test_what_is_no_text_is_named_as_what_it_is(
    bundle_of: Callable[..., Bundle], causal_lm: DecoderBundle, value: Any
) -> None:
    kind = {bytes: "bytes", bytearray: "bytearray", int: "of type int", type(None): "None"}[type(value)]
    for task in ("text-classification", "token-classification", "question-answering", "fill-mask"):
        answer = pipeline(bundle_of(task).folder)
        for inputs in (value, [value]):
            with pytest.raises(InputError, match=f"^(the input|a text|an item) is {kind}"):
                answer(inputs)
        with pytest.raises(InputError, match=rf"^inputs\[0\]: (a text|an item) is {kind}"):
            answer([value, value])
    with pytest.raises(InputError, match=f"^a text is {kind}"):
        pipeline(bundle_of("question-answering").folder)(question=value, context=TEXT)
    go_on = generator(causal_lm.folder)
    for call in (go_on, lambda inputs: go_on([inputs]), go_on.stream):
        with pytest.raises(InputError, match=f"^(the input|a text) is {kind}"):
            call(value)
    with pytest.raises(InputError, match=rf"^inputs\[1\]: a text is {kind}"):
        go_on([TEXT, value])
    with pytest.raises(InputError, match=r"a prompt is .*expected a list of token ids"):
        go_on.tokens(value)
    for opening in (pipeline, load, generator):
        with pytest.raises(InputError, match=f"^folder is {kind}.*, expected a path"):
            opening(value)
    for files in ((value, "out"), ("in", value)):
        with pytest.raises(InputError, match=f"^(source|output) is {kind}.*, expected a path"):
            run_corpus(causal_lm.folder, *files)


EMPTY: dict[str, list[Any]] = {
    "feature-extraction": ["", " "],
    "text-classification": ["", " ", {"text": "", "text_pair": ""}],
    "token-classification": ["", " "],
    "multiple-choice": [{"prompt": "", "choices": ["", " "]}],
    "question-answering": [{"question": " ", "context": " "}],
}
"""Items whose texts are empty or blank, which are answered. The tests of each task compare such answers."""


@pytest.mark.parametrize("task", EMPTY)
def test_an_empty_text_is_answered_alone_and_in_a_corpus(
    bundle_of: Callable[..., Bundle], task: str, tmp_path: Path
) -> None:
    folder = bundle_of(task).folder
    expected = json.dumps(pipeline(folder)(EMPTY[task]), default=lambda array: array.tolist())
    lines = [json.dumps({"text": item} if isinstance(item, str) else item) for item in EMPTY[task]]
    (tmp_path / "in").write_text("\n".join(lines))
    assert run_corpus(folder, tmp_path / "in", tmp_path / "out").errors == 0
    found = [json.loads(line)["answer"] for line in (tmp_path / "out").read_text().splitlines()]
    assert_same(found, json.loads(expected))


def test_an_empty_question_or_context_is_refused(bundle_of: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = bundle_of("question-answering")
    for item in ({"question": "", "context": TEXT}, {"question": TEXT, "context": ""}):
        with pytest.raises(InputError, match="is empty, expected a text"):
            pipeline(bundle.folder)(item)
        (tmp_path / "in").write_text(json.dumps(item))
        with pytest.raises(InputError, match=r"line 1: the (question|context) is empty, expected a text"):
            run_corpus(bundle.folder, tmp_path / "in", tmp_path / "out")


def test_an_empty_prompt_is_continued(causal_lm: DecoderBundle) -> None:
    assert generator(causal_lm.folder)("")[0]["generated_text"]


def test_a_pickled_pipeline_opens_the_bundle_again(
    bundle_of: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle_of("token-classification").folder
    monkeypatch.chdir(folder.parent)
    tag = pipeline(folder.name, aggregation_strategy="simple", ignore_labels=(), batch_size=3, threads=1)
    monkeypatch.chdir("/")
    for again in (pickle.loads(pickle.dumps(tag)), copy.copy(tag)):  # noqa: S301 # made here
        assert again is not tag
        assert_same(again(list(CORPUS)), tag(list(CORPUS)))
        assert_same(again.session.run(FEEDS)["logits"].tolist(), tag.session.run(FEEDS)["logits"].tolist())
    with pytest.raises(TypeError, match="this session was not opened from a folder"):
        pickle.dumps(Session(tag.session.manifest, tag.session.graph, tag.session._engine, provider="cpu"))


FEEDS = {name: np.ones((1, 4), np.int64) for name in ("input_ids", "attention_mask")}


def answer_of(opened: Any, inputs: Any) -> tuple[int, Any]:
    """Return the process that answers, and its answer."""
    return os.getpid(), opened.run(inputs)["logits"].tolist() if isinstance(opened, Session) else opened(inputs)


def test_a_spawned_process_answers_with_what_it_is_given(
    bundle_of: Callable[..., Bundle], causal_lm: DecoderBundle
) -> None:
    classify = pipeline(bundle_of("text-classification").folder, top_k=None)
    go_on: Generator = generator(causal_lm.folder, max_new_tokens=4)
    assert pipeline(causal_lm.folder).options == GenerationOptions()
    session = load(bundle_of("text-classification").folder, threads=1, rewritten=False)
    jobs = [(classify, TEXT), (go_on, TEXT), (session, FEEDS)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for job, (process, answer) in zip(jobs, pool.starmap(answer_of, jobs), strict=True):
            assert process != os.getpid()
            assert_same(answer, answer_of(*job)[1])
