import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rpln_runtime import InputError, pipeline
from rpln_runtime.postprocess.question_answering import best_spans
from tests.runtime.bundles import CORPUS, Bundle, copy_bundle
from tests.runtime.comparison import LONG_TEXT, assert_same, reference

TASK = "question-answering"
QUESTIONS = ("Where did Ada live?", "東京 😀?", " ")
CONTEXTS = (CORPUS[0], "London LONDON london, Paris paris", CORPUS[3], "  naïve  <mask> café </s> ", LONG_TEXT)
ITEMS = [{"question": question, "context": context} for question in QUESTIONS for context in CONTEXTS]

only_with_the_pipeline = pytest.mark.skipif(
    not hasattr(transformers, "QuestionAnsweringPipeline"),
    reason="transformers 5 removed its question-answering pipeline: compared in the environment with 4.57",
)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "prefix-space"])
def bundle(bundle_of: Callable[..., Bundle], request: pytest.FixtureRequest) -> Bundle:
    return bundle_of(TASK, add_prefix_space=True) if request.param else bundle_of(TASK)


def with_answers(answers: Any) -> list[Any]:
    """Return the answers as a list, without the empty ones that transformers adds if there are fewer than top_k."""
    listed = answers if isinstance(answers, list) else [answers]
    return [answer for answer in listed if answer["score"] > 0]


@only_with_the_pipeline
@pytest.mark.parametrize("answers", [{}, {"top_k": 2}, {"top_k": 7, "handle_impossible_answer": True}], ids=str)
@pytest.mark.parametrize("spans", [{}, {"align_to_words": False, "max_answer_len": 3}, {"max_answer_len": 50}], ids=str)
@pytest.mark.parametrize(
    "windows", [{}, {"max_seq_len": 40, "doc_stride": 5}, {"max_seq_len": 30, "doc_stride": 0}], ids=str
)
def test_equals_transformers(
    bundle_of: Callable[..., Bundle], answers: dict[str, Any], spans: dict[str, Any], windows: dict[str, Any]
) -> None:
    bundle = bundle_of(TASK)
    options = answers | spans | windows
    answer, hf_answer = pipeline(bundle.folder, **options), reference(bundle, TASK)
    for item in ITEMS:
        ours, theirs = answer(item), hf_answer(**item, **options)
        assert isinstance(ours, dict) == ("top_k" not in options)
        assert_same(with_answers(ours), with_answers(theirs))


@only_with_the_pipeline
def test_windows_from_the_end_equal_transformers(
    bundle_of: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_of(TASK)
    monkeypatch.setattr(bundle.tokenizer, "truncation_side", "left")
    answer, hf_answer = pipeline(copy_bundle(bundle, tmp_path, truncation_side="left")), reference(bundle, TASK)
    for options in ({"max_seq_len": 40, "doc_stride": 5}, {"max_seq_len": 30, "doc_stride": 0}):
        for item in ITEMS:
            ours, theirs = answer(item, top_k=4, **options), hf_answer(**item, top_k=4, **options)
            assert_same(with_answers(ours), with_answers(theirs))


@only_with_the_pipeline
def test_short_contexts_with_a_prefix_space_equal_transformers(bundle: Bundle) -> None:
    answer, hf_answer = pipeline(bundle.folder, top_k=5), reference(bundle, TASK)
    for item in ITEMS:
        if item["context"] != LONG_TEXT:
            assert_same(with_answers(answer(item)), with_answers(hf_answer(**item, top_k=5)))


@only_with_the_pipeline
@pytest.mark.parametrize("align_to_words", [True, False])
def test_answers_at_the_start_of_a_later_window_begin_with_a_space_in_transformers_alone(
    bundle_of: Callable[..., Bundle], align_to_words: bool
) -> None:
    bundle = bundle_of(TASK, add_prefix_space=True)
    options: dict[str, Any] = {"top_k": 100, "max_seq_len": 40, "doc_stride": 5, "align_to_words": align_to_words}
    item = {"question": QUESTIONS[0], "context": LONG_TEXT}

    def begins_with_space(answers: Any) -> list[str]:
        return [one["answer"] for one in answers if LONG_TEXT[one["start"]] == " " and one["score"] > 0]

    assert begins_with_space(reference(bundle, TASK)(**item, **options))
    assert not begins_with_space(pipeline(bundle.folder, **options)(item))


def test_answers_are_parts_of_the_context(bundle: Bundle) -> None:
    for answers, item in zip(pipeline(bundle.folder, top_k=9)(ITEMS), ITEMS, strict=True):
        assert answers
        for answer in answers:
            assert answer["answer"] == item["context"][answer["start"] : answer["end"]]
        texts = [answer["answer"].lower() for answer in answers]
        assert len(set(texts)) == len(texts)
        assert [answer["score"] for answer in answers] == sorted((a["score"] for a in answers), reverse=True)


def test_aligned_answers_are_whole_words(bundle: Bundle) -> None:
    for word in pipeline(bundle.folder, top_k=9, max_answer_len=1)({"question": "Who?", "context": CORPUS[0]}):
        around = CORPUS[0][max(word["start"] - 1, 0) : word["end"] + 1]
        assert word["answer"].isalpha() == (around.strip(" .") == word["answer"])


def test_items_by_name_and_in_lists(bundle: Bundle) -> None:
    answer = pipeline(bundle.folder)
    assert answer(question="Who?", context=CORPUS[0]) == answer({"question": "Who?", "context": CORPUS[0]})
    assert_same(answer(ITEMS), [answer(item) for item in ITEMS])
    assert answer([ITEMS[0]]) == [answer(ITEMS[0])]


@pytest.mark.parametrize(
    ("item", "options", "facts"),
    [
        ({"question": "", "context": "c"}, {}, "question is empty"),
        ({"question": "q", "context": ""}, {}, "context is empty"),
        ({"question": "q"}, {}, "keys 'question', .* 'question', 'context'"),
        ("text", {}, "item .*str.* 'question', 'context'"),
        ({"question": LONG_TEXT, "context": LONG_TEXT}, {}, "64 tokens .* 0 tokens .* 2"),
        (ITEMS[0], {"top_k": 0}, "top_k is 0.* 1 or more"),
        (ITEMS[0], {"max_answer_len": 0}, "max_answer_len is 0.* 1 or more"),
        (ITEMS[0], {"doc_stride": -1}, "doc_stride is -1.* 0 or more"),
        (ITEMS[0], {"max_seq_len": 65}, "max_seq_len is 65.* 1 to 64"),
    ],
)
def test_wrong_items_and_options_are_refused(bundle: Bundle, item: Any, options: dict[str, Any], facts: str) -> None:
    with pytest.raises(InputError, match=facts):
        pipeline(bundle.folder)(item, **options)


probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=9)


@given(pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=9), data=st.data())
def test_best_spans_are_the_best(pairs: list[tuple[float, float]], data: st.DataObject) -> None:
    start, end = (np.array(column) for column in zip(*pairs, strict=True))
    count, max_length = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 10))
    spans = best_spans(start, end, count=count, max_length=max_length)
    every = [
        start[first] * end[last]
        for first, last in itertools.product(range(len(start)), repeat=2)
        if first <= last < first + max_length
    ]
    assert [score for _, _, score in spans] == sorted((score for score in every if score > 0), reverse=True)[:count]
    assert all(start[first] * end[last] == score for first, last, score in spans)
    assert all(first <= last < first + max_length for first, last, _ in spans)
    assert len({span[:2] for span in spans}) == len(spans)


def test_of_equally_likely_spans_the_first_are_the_best() -> None:
    """Tokens of padding in a context all have one position, and so the same logits."""
    start, end = np.full(40, 0.5, np.float32), np.full(40, 0.25, np.float32)
    start[30] = 1.0
    for count in (1, 3, 7):
        found = best_spans(start, end, count=count, max_length=1)
        assert [(first, last) for first, last, _ in found] == [(30, 30), *((at, at) for at in range(count - 1))]
    assert best_spans(start * 0, end, count=3, max_length=5) == []
