"""Long texts become, piece by piece, the tokens of the whole text, and their bytes tell that they are long."""

import random
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from rpln_runtime import InputError, long_texts
from rpln_runtime.long_texts import Pieces
from rpln_runtime.tokenization import Encoding, Tokenizer
from tests.cpp.test_tokenizer import CHANGES, Change, changed_tokenizer, no_change, one_word, with_unknown
from tests.cpp.texts import KINDS, WORDS, one_of, random_texts

UNCUT = (one_word, with_unknown)
"""The tokenizers whose texts are not cut: one takes a text for a single word, one does not know every byte."""
MARKS = ".,:;!?\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f"
COLUMNS = ("ids", "type_ids", "offsets", "words", "sequences", "positions")


@pytest.fixture(scope="module", params=CHANGES, ids=lambda change: change.__name__)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Change, Path]:
    """Return a change of the embedded tokenizer, and the file of the changed one."""
    return request.param, changed_tokenizer(tmp_path_factory.mktemp("tokenizer"), request.param)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return changed_tokenizer(tmp_path_factory.mktemp("tokenizer"), no_change)


def tokenizer_from(path: Path) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_file(str(path)))


def encode_by_pieces(tokenizer: Tokenizer, size: int, *texts: str) -> Encoding:
    """Return the tokens of a text or a pair, in pieces of at least `size` characters, however short the text is."""
    with patch.object(long_texts, "PIECE", size), patch("rpln_runtime.tokenization.PIECE", -1):
        return tokenizer.encode(*texts)


def assert_equal(found: Encoding, expected: Encoding) -> None:
    for name in COLUMNS:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def hard_texts(count: int, *, seed: int) -> list[str]:
    """Return random texts, half of them with many places where texts are cut."""
    draw = random.Random(seed)
    texts = random_texts(count // 2, seed=seed)
    kinds = (*KINDS, *[one_of(" \n\t" + MARKS)] * 9, one_of(WORDS))
    texts += ["".join(draw.choice(kinds)(draw) for _ in range(draw.randint(1, 40))) for _ in range(count // 2)]
    return texts


def test_pieces_have_the_tokens_of_the_text(case: tuple[Change, Path]) -> None:
    change, path = case
    tokenizer = tokenizer_from(path)
    cuts = 0
    for place, text in enumerate(hard_texts(1_200, seed=CHANGES.index(change))):
        size = place % 7 + 1
        with patch.object(long_texts, "PIECE", size):
            cuts += len(list(tokenizer._pieces.cut(text))) - 1
        assert_equal(encode_by_pieces(tokenizer, size, text), tokenizer.encode(text))
    assert tokenizer._pieces.cuttable == (change not in UNCUT)
    assert cuts > 1_200


def test_pieces_of_a_pair_have_its_tokens(case: tuple[Change, Path]) -> None:
    tokenizer = tokenizer_from(case[1])
    texts = hard_texts(300, seed=7)
    for place, pair in enumerate(zip(texts, texts[::-1], strict=True)):
        assert_equal(encode_by_pieces(tokenizer, place % 5 + 1, *pair), tokenizer.encode(*pair))


@given(
    text=st.lists(st.sampled_from([*MARKS, " ", "\n", "'s", "<mask>", " <mask>", "x", "天", "1"]) | st.text()).map(
        "".join
    )
)
def test_any_text_in_pieces_of_a_character_has_its_tokens(embedded: Path, text: str) -> None:
    tokenizer = tokenizer_from(embedded)
    assert_equal(encode_by_pieces(tokenizer, 1, text), tokenizer.encode(text))


def test_a_long_text_is_cut_and_has_its_tokens(embedded: Path) -> None:
    tokenizer = tokenizer_from(embedded)
    text = " ".join(hard_texts(4_000, seed=3))
    assert len(list(tokenizer._pieces.cut(text))) > 3
    assert_equal(tokenizer.encode(text), tokenizer._encoding(text, None))
    assert_equal(tokenizer.encode("A question?", text), tokenizer._encoding("A question?", text))


@pytest.mark.parametrize(
    "added",
    [
        AddedToken("<right>", rstrip=True),
        AddedToken("the <s"),
        AddedToken("old", single_word=True),
        AddedToken("xy"),
        AddedToken("e. "),
        AddedToken(" the"),
    ],
    ids=str,
)
def test_texts_are_not_cut_where_an_added_token_may_reach_over_the_cut(embedded: Path, added: AddedToken) -> None:
    backend = tokenizers.Tokenizer.from_file(str(embedded))
    backend.add_tokens([added])
    tokenizer = Tokenizer(backend)
    assert not tokenizer._pieces.cuttable
    text = "the <s> <right>  old xy e. the,"
    assert_equal(encode_by_pieces(tokenizer, 1, text), tokenizer.encode(text))


def test_other_added_tokens_do_not_keep_texts_whole(embedded: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(embedded))
    backend.add_tokens([AddedToken("<left>", lstrip=True), AddedToken("<n>", normalized=True), AddedToken(" the-")])
    tokenizer = Tokenizer(backend)
    assert tokenizer._pieces.cuttable
    draw = random.Random(5)
    for _ in range(1_000):
        text = "".join(draw.choices(["<left>", "<n>", " the-", "the", " ", "\u3000", "\n", "a", "é", "<", ","], k=12))
        assert_equal(encode_by_pieces(tokenizer, 1, text), tokenizer.encode(text))


def test_no_text_has_fewer_tokens_than_its_bytes_say(case: tuple[Change, Path]) -> None:
    tokenizer = tokenizer_from(case[1])
    longest = tokenizer._pieces.longest
    assert (longest is None) == (case[0] == with_unknown)
    for text in (*hard_texts(400, seed=11), "Ġcharacteristics"[1:] * 50, " " * 999 + "<mask>", "<mask>" * 9):
        assert tokenizer._pieces.least_tokens(text) <= int((tokenizer.encode(text).sequences >= 0).sum())
    if longest is not None:
        assert longest == len("Ġcharacteristics")
        assert tokenizer._pieces.least_tokens(" characteristics" * 100) == 100
        assert tokenizer._pieces.least_tokens(" " * 100 * longest) == 100
        assert tokenizer._pieces.least_tokens(" " * 100 * longest + "<mask>") == 1


def backend_with(**parts: Any) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    for name, part in parts.items():
        setattr(backend, name, part)
    return backend


def alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": normalizers.NFC()},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
        {"model": models.BPE({letter: at for at, letter in enumerate(alphabet()[1:])}, [])},
        {"model": models.BPE({letter: at for at, letter in enumerate(alphabet())}, [], dropout=0.5)},
        {"model": models.WordLevel({"a": 0}, unk_token="a")},
    ],
    ids=["normalizer", "other words", "unknown byte", "dropout", "other model"],
)
def test_nothing_is_said_of_other_tokenizers(parts: dict[str, Any]) -> None:
    assert Pieces.of(backend_with()).cuttable
    found = Pieces.of(backend_with(**parts))
    assert (found.longest, found.cuttable, found.least_tokens("a" * 1000)) == (None, False, 0)


def test_a_text_that_is_too_long_is_refused_before_it_is_tokenized(embedded: Path) -> None:
    tokenizer = tokenizer_from(embedded)
    with patch.object(Tokenizer, "_encoding", side_effect=AssertionError):
        tokenizer.check_bytes(" characteristics" * 5_000, 5_000, advice="shorten it.")
        with pytest.raises(InputError, match=r"a text has 625000 tokens or more, .* is 510: shorten it"):
            tokenizer.check_bytes("a" * 10_000_000, 510, advice="shorten it.")
        with pytest.raises(InputError, match="not valid Unicode"):
            tokenizer.check_bytes("\ud800", 510, advice="")
