import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rpln_runtime import InputError, pipeline
from rpln_runtime.corpus import run_corpus
from rpln_runtime.postprocess.token_classification import EntityGroup, Labelled, drop_overlaps, split_entities
from tests.runtime.bundles import CORPUS, LABELS, USABLE_LENGTH, Bundle, copy_bundle
from tests.runtime.comparison import LONG_TEXT, TEXTS, assert_same, reference

TASK = "token-classification"
STRATEGIES = ("none", "simple", "first", "average", "max")
WINDOWED = STRATEGIES[1:]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "prefix-space"])
def bundle(bundle_of: Callable[..., Bundle], request: pytest.FixtureRequest) -> Bundle:
    return bundle_of(TASK, add_prefix_space=True) if request.param else bundle_of(TASK)


def test_random_weights_give_every_label_its_turn(bundle: Bundle) -> None:
    tag = pipeline(bundle.folder, ignore_labels=[])
    assert {entity["entity"] for entities in tag(list(CORPUS)) for entity in entities} >= set(LABELS) - {"I-PER"}


@pytest.mark.parametrize("ignore_labels", [None, [], ["O", "MISC", "LOC"]], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equals_transformers(bundle: Bundle, strategy: str, ignore_labels: list[str] | None) -> None:
    options: dict[str, Any] = {"aggregation_strategy": strategy}
    if ignore_labels is not None:
        options["ignore_labels"] = ignore_labels
    assert_same(pipeline(bundle.folder, **options)(list(TEXTS)), reference(bundle, TASK)(list(TEXTS), **options))


@pytest.mark.parametrize("stride", [0, 1, 16, 40])
@pytest.mark.parametrize("strategy", WINDOWED)
def test_windows_equal_transformers(bundle_of: Callable[..., Bundle], strategy: str, stride: int) -> None:
    bundle = bundle_of(TASK)
    tag, hf_tag = pipeline(bundle.folder), reference(bundle, TASK)
    for text in (LONG_TEXT, "x" * 200, "東京" * 60, CORPUS[0]):
        options: dict[str, Any] = {"aggregation_strategy": strategy, "stride": stride}
        assert_same(tag(text, **options), hf_tag(text, **options))


@pytest.mark.parametrize("strategy", WINDOWED)
def test_windows_from_the_end_equal_transformers(
    bundle_of: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    bundle = bundle_of(TASK)
    monkeypatch.setattr(bundle.tokenizer, "truncation_side", "left")
    tag, hf_tag = pipeline(copy_bundle(bundle, tmp_path, truncation_side="left")), reference(bundle, TASK)
    for stride in (0, 16):
        options: dict[str, Any] = {"aggregation_strategy": strategy, "stride": stride}
        assert_same(tag(LONG_TEXT, **options), hf_tag(LONG_TEXT, **options))


@pytest.mark.parametrize("strategy", WINDOWED)
def test_too_long_texts_are_read_in_windows_unasked(bundle_of: Callable[..., Bundle], strategy: str) -> None:
    bundle = bundle_of(TASK)
    hf_entities = reference(bundle, TASK)(LONG_TEXT, aggregation_strategy=strategy, stride=USABLE_LENGTH // 4)
    assert_same(pipeline(bundle.folder, aggregation_strategy=strategy)(LONG_TEXT), hf_entities)


@pytest.mark.parametrize("stride", [0, 16])
@pytest.mark.parametrize("strategy", WINDOWED)
def test_offsets_in_windows_are_those_of_the_whole_text(bundle: Bundle, strategy: str, stride: int) -> None:
    # With add_prefix_space, transformers lets the first entity of a later window start at the space before it.
    entities = pipeline(bundle.folder, aggregation_strategy=strategy, stride=stride, ignore_labels=[])(LONG_TEXT)
    whole = bundle.tokenizer(LONG_TEXT, return_offsets_mapping=True, truncation=False, verbose=False)
    starts, ends = (set(column) for column in zip(*whole["offset_mapping"], strict=True))
    assert {entity["start"] for entity in entities} <= starts
    assert {entity["end"] for entity in entities} <= ends


def test_none_gives_each_token_of_a_long_text_once(bundle: Bundle) -> None:
    entities = pipeline(bundle.folder, ignore_labels=[], stride=20)(LONG_TEXT)
    whole = bundle.tokenizer(LONG_TEXT, return_offsets_mapping=True, truncation=False, verbose=False)
    assert [entity["index"] for entity in entities] == list(range(1, len(whole["input_ids"]) - 1))
    assert [(entity["start"], entity["end"]) for entity in entities] == whole["offset_mapping"][1:-1]
    assert [entity["word"] for entity in entities] == bundle.tokenizer.convert_ids_to_tokens(whole["input_ids"])[1:-1]


def test_none_takes_a_token_from_the_window_that_holds_it_deepest(bundle: Bundle) -> None:
    stride = 20
    entities = pipeline(bundle.folder, ignore_labels=[], stride=stride)(LONG_TEXT)
    batch = bundle.tokenizer(
        LONG_TEXT,
        truncation=True,
        max_length=USABLE_LENGTH,
        stride=stride,
        return_overflowing_tokens=True,
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = bundle.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    step = USABLE_LENGTH - 2 - stride
    best: dict[int, tuple[int, torch.Tensor]] = {}
    for window, (scores, mask) in enumerate(zip(logits.softmax(-1), batch["attention_mask"], strict=True)):
        length = int(mask.sum())
        for place in range(1, length - 1):
            depth = min(place, length - 1 - place)
            token = window * step + place
            if token not in best or depth > best[token][0]:
                best[token] = (depth, scores[place])
    assert len(batch["input_ids"]) > 2
    assert_same(
        [(entity["entity"], entity["score"]) for entity in entities],
        [(LABELS[int(scores.argmax())], float(scores.max())) for _, (_, scores) in sorted(best.items())],
    )


def test_a_batch_answers_as_its_texts_alone(bundle: Bundle) -> None:
    texts = [*TEXTS, LONG_TEXT, CORPUS[1]]
    tag = pipeline(bundle.folder, aggregation_strategy="average", batch_size=4)
    assert_same(tag(texts), [tag(text) for text in texts])
    assert_same(tag(texts, batch_size=1), tag(texts))
    assert tag([]) == []


def test_options_of_a_call_do_not_stay(bundle: Bundle) -> None:
    tag = pipeline(bundle.folder, aggregation_strategy="simple")
    before = tag(CORPUS[0])
    assert tag(CORPUS[0], aggregation_strategy="none") != before
    assert tag(CORPUS[0]) == before


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (
            {"aggregation_strategy": "SIMPLE"},
            "aggregation_strategy is 'SIMPLE'.* 'none', 'simple', 'first', 'average', 'max'",
        ),
        ({"ignore_labels": "O"}, "ignore_labels is 'O'.* list"),
        ({"stride": 1.5}, r"stride is 1\.5.* 0 to 63"),
        ({"stride": 64}, "stride is 64.* 0 to 63"),
        ({"stride": -1}, "stride is -1.* 0 to 63"),
        ({"top_k": 3}, "'top_k' .*token-classification.* aggregation_strategy, ignore_labels"),
    ],
)
def test_wrong_options_are_refused(bundle: Bundle, options: dict[str, Any], facts: str) -> None:
    with pytest.raises(InputError, match=facts):
        pipeline(bundle.folder, **options)
    with pytest.raises(InputError, match=facts):
        pipeline(bundle.folder)("text", **options)


def test_a_stride_that_leaves_no_room_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"64 tokens .* 62 tokens .*stride of 62"):
        pipeline(bundle.folder, stride=62)(LONG_TEXT)


def _labelled(labels: list[str]) -> list[Labelled]:
    return [Labelled(label=label, score=1.0, word="w", start=i, end=i + 1, index=i) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "entities"),
    [
        (["B-A", "I-A", "I-A"], [3]),
        (["B-A", "B-A"], [1, 1]),
        (["I-A", "I-A", "B-A", "I-A"], [2, 2]),
        (["B-A", "I-B", "I-A"], [1, 1, 1]),
        (["A", "A", "I-A", "B-A"], [3, 1]),
        (["O", "O", "B-O"], [2, 1]),
        ([], []),
    ],
)
def test_neighbours_of_one_tag_are_one_entity(labels: list[str], entities: list[int]) -> None:
    assert [len(entity) for entity in split_entities(_labelled(labels))] == entities


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B", "A"])))
def test_entities_hold_every_token_in_order(labels: list[str]) -> None:
    tokens = _labelled(labels)
    assert [token for entity in split_entities(tokens) for token in entity] == tokens


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 5), st.floats(0, 1)).map(
            lambda t: EntityGroup(entity_group="A", score=t[2], word="w", start=t[0], end=t[0] + t[1])
        )
    )
)
def test_overlaps_are_dropped_as_transformers_does(groups: list[EntityGroup]) -> None:
    kept, hf_pipeline = drop_overlaps(groups), cast(Any, transformers.TokenClassificationPipeline)
    assert kept == hf_pipeline.aggregate_overlapping_entities(None, groups)
    assert all(before["end"] <= after["start"] for before, after in itertools.pairwise(kept))


WORDS = ("New York", "is", "", " ", "naïve", "<mask>", "don't", "東京", "x" * 30, "London,")


@pytest.mark.parametrize("delimiter", [" ", "", " – "])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_split_words_equal_transformers(bundle_of: Callable[..., Bundle], strategy: str, delimiter: str) -> None:
    bundle = bundle_of(TASK, add_prefix_space=True)
    tag = pipeline(bundle.folder, aggregation_strategy=strategy, ignore_labels=[], is_split_into_words=True)
    for words in (list(WORDS), CORPUS[0].split(), ["one"]):
        theirs = reference(bundle, TASK)(
            words,
            aggregation_strategy=strategy,
            ignore_labels=[],
            is_split_into_words=True,
            delimiter=delimiter,
        )
        assert_same(tag(words, delimiter=delimiter), theirs[0] if isinstance(theirs[0], list) else theirs)
    lists = [list(WORDS), [], CORPUS[1].split()]
    assert_same(tag(lists), [tag(words) for words in lists])
    assert tag([]) == []


def test_split_words_of_a_corpus_are_lists(bundle_of: Callable[..., Bundle], tmp_path: Path) -> None:
    folder = bundle_of(TASK, add_prefix_space=True).folder
    items = [CORPUS[0].split(), CORPUS[1], ["one"], []]
    (tmp_path / "in").write_text("".join(json.dumps({"text": item}) + "\n" for item in items))
    options: dict[str, Any] = {"is_split_into_words": True, "ignore_labels": []}
    run_corpus(folder, tmp_path / "in", tmp_path / "out", options=options, window=2, on_error="record")
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert found[1] == {"error": "its 'text' is of type str, expected a list of texts"}
    answers = pipeline(folder, **options)([items[0], *items[2:]])
    assert_same([found[place]["answer"] for place in (0, 2, 3)], answers)


def test_split_words_are_read_in_windows(bundle_of: Callable[..., Bundle]) -> None:
    folder = bundle_of(TASK, add_prefix_space=True).folder
    # Where every word ends at a space and holds none, the words have the tokens of the text.
    words = [word for word in LONG_TEXT.split() if word.isalpha()]
    tag = pipeline(folder, ignore_labels=[], aggregation_strategy="first")
    assert_same(tag(words, is_split_into_words=True), tag(" ".join(words)))


def test_split_words_need_a_tokenizer_that_puts_a_space_before_a_text(bundle_of: Callable[..., Bundle]) -> None:
    tag = pipeline(bundle_of(TASK).folder)
    with pytest.raises(InputError, match=r'add_prefix_space.*Pass " "\.join\(words\)'):
        tag(["one", "two"], is_split_into_words=True)
    tag = pipeline(bundle_of(TASK, add_prefix_space=True).folder, is_split_into_words=True)
    for inputs, says in (
        ("one two", "an item is of type str, expected a list of words"),
        ("", "an item is of type str, expected a list of words"),
        (["one", None], "an item is of type str, expected a list of words"),
        ([["one", 2]], "a text is of type int, expected a str"),
    ):
        with pytest.raises(InputError, match=says):
            tag(inputs)
    with pytest.raises(InputError, match="delimiter is 3, expected a str"):
        tag(["one"], delimiter=3)
