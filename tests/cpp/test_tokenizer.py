"""The C++ tokenizer gives what the tokenizers library gives: ids, offsets, words and decoded texts."""

import json
import random
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from rpln_export.plan.defaults import DEFAULTS
from tests.cpp.building import Build
from tests.cpp.texts import random_texts

Change = Callable[[dict[str, Any]], None]


def no_change(document: dict[str, Any]) -> None:
    """Leave the tokenizer as it was trained: with a space before every text."""


def without_prefix(document: dict[str, Any]) -> None:
    """Let the tokenizer add no space before a text, as RoBERTa's does."""
    document["pre_tokenizer"]["add_prefix_space"] = False
    document["post_processor"]["add_prefix_space"] = False


def untrimmed(document: dict[str, Any]) -> None:
    document["post_processor"]["trim_offsets"] = False


def one_word(document: dict[str, Any]) -> None:
    document["pre_tokenizer"]["use_regex"] = False


def whole_words_first(document: dict[str, Any]) -> None:
    document["model"]["ignore_merges"] = True


def with_unknown(document: dict[str, Any]) -> None:
    """Remove two letters from the vocabulary, so that some texts have an unknown token."""
    document["model"]["unk_token"] = "<unk>"
    document["model"]["fuse_unk"] = True
    vocabulary = document["model"]["vocab"]
    lost = [token for token in vocabulary if "e" in token or "Ã" in token]
    document["model"]["vocab"] = {token: number for token, number in vocabulary.items() if token not in lost}
    document["model"]["merges"] = [
        merge for merge in document["model"]["merges"] if not any("e" in side or "Ã" in side for side in merge)
    ]


def of_a_decoder(document: dict[str, Any]) -> None:
    """Let the tokenizer add nothing after a text and keep spaces in offsets, as the embedded language model's does."""
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, texts[0]],
        "pair": [start, *texts],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }


def with_token_types(document: dict[str, Any]) -> None:
    """Give the tokens of a pair's second text, and the special tokens around them, another type."""
    of_a_decoder(document)
    start, *texts = document["post_processor"]["pair"]
    end = {"SpecialToken": {"id": "<s>", "type_id": 2}}
    texts[1]["Sequence"]["type_id"] = 1
    document["post_processor"]["pair"] = [start, *texts, end]


CHANGES: tuple[Change, ...] = (
    no_change,
    without_prefix,
    untrimmed,
    one_word,
    whole_words_first,
    with_unknown,
    of_a_decoder,
    with_token_types,
)


def changed_tokenizer(folder: Path, change: Change) -> Path:
    document = json.loads((DEFAULTS["token-classification"].folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(document)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def python_tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def assert_equal(build: Build, path: Path, texts: list[Any]) -> None:
    """Compare the results for every text or pair. Offsets in bytes must point to the same characters."""
    tokenizer = python_tokenizer(path)
    for text, rows in zip(texts, build.ask("tokenize", path, texts), strict=True):
        pair = [text] if isinstance(text, str) else text
        theirs = tokenizer.encode(*pair)
        # Where each character begins in UTF-8. Special tokens have the offsets (0, 0) and belong to no text.
        starts = {index: list(accumulate((len(c.encode()) for c in own), initial=0)) for index, own in enumerate(pair)}
        columns = zip(theirs.ids, theirs.offsets, theirs.word_ids, theirs.sequence_ids, theirs.type_ids, strict=True)
        expected = []
        for position, (token, (start, end), word, sequence, kind) in enumerate(columns):
            in_bytes = [starts[sequence][start], starts[sequence][end]] if sequence is not None else [0, 0]
            numbers = [-1 if word is None else word, -1 if sequence is None else sequence, position, kind]
            expected.append([token, start, end, *in_bytes, *numbers])
        assert rows == expected, repr(text[:100])


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_tokens_equal_those_of_the_library(built: Build, tmp_path: Path, change: Change) -> None:
    path = changed_tokenizer(tmp_path, change)
    count = 5_000 if change in {no_change, without_prefix} else 500
    assert_equal(built, path, random_texts(count, seed=CHANGES.index(change)))


@pytest.mark.parametrize(
    "change", [no_change, without_prefix, of_a_decoder, with_token_types], ids=lambda change: change.__name__
)
def test_pairs_equal_those_of_the_library(built: Build, tmp_path: Path, change: Change) -> None:
    texts = random_texts(1_000, seed=17)
    assert_equal(
        built, changed_tokenizer(tmp_path, change), [list(pair) for pair in zip(texts, texts[::-1], strict=True)]
    )


def test_added_tokens_that_take_spaces_along_equal_those_of_the_library(built: Build, tmp_path: Path) -> None:
    path = changed_tokenizer(tmp_path, without_prefix)
    tokenizer = python_tokenizer(path)
    tokenizer.add_tokens([AddedToken("<right>", rstrip=True), AddedToken("<r", normalized=True), AddedToken("the <s")])
    tokenizer.add_special_tokens([AddedToken("<both>", lstrip=True, rstrip=True)])
    tokenizer.save(str(path))
    pieces = ["<right>", "<r", "<both>", "<mask>", "the ", "<s>", " ", "\u3000", "\n", "a", "é", "<"]
    draw = random.Random(5)
    assert_equal(built, path, ["".join(draw.choices(pieces, k=draw.randint(1, 12))) for _ in range(1_000)])


def test_every_character_is_of_the_class_that_the_library_takes_it_for(built: Build, tmp_path: Path) -> None:
    """The texts have every character of the planes with letters or numbers.

    Beside a letter and a number, a character shows where words end.
    """
    codes = [code for code in [*range(0x33500), *range(0xE0000, 0xE0200)] if not 0xD800 <= code < 0xE000]
    texts = ["".join(f"a{c}1{c}" for c in map(chr, codes[at : at + 256])) for at in range(0, len(codes), 256)]
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    for text, lengths in zip(texts, built.ask("words", tmp_path, texts), strict=True):
        assert lengths == [len(text[start:end].encode()) for _, (start, end) in split(text)], hex(ord(text[1]))


def test_long_words_take_no_longer_than_their_length_says(built: Build, tmp_path: Path) -> None:
    path = changed_tokenizer(tmp_path, no_change)
    assert_equal(built, path, ["a" * 50_000, "the" * 20_000, "é" * 10_000])


def test_decoding_equals_that_of_the_library(built: Build, tmp_path: Path) -> None:
    path = changed_tokenizer(tmp_path, no_change)
    tokenizer = python_tokenizer(path)
    draw = random.Random(3)
    size = tokenizer.get_vocab_size()
    # Random bytes are mostly not valid UTF-8, and ids outside the vocabulary have no text.
    requests: list[dict[str, Any]] = [
        {"ids": [draw.randrange(draw.choice([270, size, size + 3])) for _ in range(draw.randint(0, 30))], "skip": skip}
        for _ in range(1_000)
        for skip in (False, True)
    ]
    expected = [tokenizer.decode(row["ids"], skip_special_tokens=row["skip"]) for row in requests]
    assert built.ask("decode", path, requests) == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(normalizer={"type": "NFC"}), "normalizer"),
        (lambda d: d["pre_tokenizer"].update(type="Whitespace"), "Whitespace, expected ByteLevel"),
        (lambda d: d["model"].update(type="WordPiece"), "BPE"),
        (lambda d: d["model"].update(byte_fallback=True), "byte_fallback"),
        (lambda d: d["model"]["merges"].append(["q", "zz"]), "zz"),
        (lambda d: d["model"]["vocab"].pop("Ā"), "Ā for the byte 0"),
        (lambda d: d["added_tokens"][4].update(single_word=True), '"<mask>" is a single_word'),
        (lambda d: d["post_processor"].update(type="BertProcessing"), "expected RobertaProcessing"),
        (lambda d: d["model"].pop("vocab"), "vocab"),
    ],
)
def test_what_would_change_tokens_is_refused(built: Build, tmp_path: Path, change: Change, reason: str) -> None:
    path = changed_tokenizer(tmp_path, change)
    (answer,) = built.ask("tokenize", path, ["text"])
    assert answer["code"] == 4
    assert str(path) in answer["error"]
    assert reason in answer["error"]
