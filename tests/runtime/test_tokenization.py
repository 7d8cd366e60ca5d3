import itertools
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st

from rpln_runtime import InputError, ManifestError
from rpln_runtime.facts import RIGHT, TRUNCATION_SIDES
from rpln_runtime.manifest import read_manifest, write_manifest
from rpln_runtime.tasks import TASKS
from rpln_runtime.tokenization import Encoding, Tokenizer, truncate, windows
from tests.runtime.bundles import CORPUS, make_manifest, make_model, make_tokenizer
from tests.runtime.comparison import LONG_TEXT, TEXTS

texts = st.lists(st.sampled_from([*TEXTS, " ", "Ada"]) | st.text(max_size=20), max_size=6).map("".join)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "prefix-space"])
def pair(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Tokenizer, Any]:
    """Return the tokenizer of this runtime and transformers' own, from one file."""
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs = make_tokenizer(folder, add_prefix_space=request.param)
    return Tokenizer(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))), theirs


def assert_encodings_equal(ours: Encoding, theirs: Any, window: int, *, offsets: bool = True) -> None:
    assert ours.ids.tolist() == theirs["input_ids"][window]
    assert (ours.sequences < 0).tolist() == [bool(flag) for flag in theirs["special_tokens_mask"][window]]
    assert ours.sequences.tolist() == [-1 if index is None else index for index in theirs.sequence_ids(window)]
    assert ours.words.tolist() == [-1 if word is None else word for word in theirs.word_ids(window)]
    if offsets:
        assert [tuple(row) for row in ours.offsets.tolist()] == theirs["offset_mapping"][window]


def encode_with_transformers(
    tokenizer: Any, text: str, truncation_side: str = RIGHT, text_pair: str | None = None, **options: Any
) -> Any:
    pairs = None if text_pair is None else [text_pair]
    tokenizer.truncation_side = truncation_side
    return tokenizer(
        [text],
        pairs,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
        **({"truncation": False} | options),
    )


@given(text=texts, text_pair=st.none() | texts)
def test_encodes_as_transformers_does(pair: tuple[Tokenizer, Any], text: str, text_pair: str | None) -> None:
    ours, theirs = pair
    encoding = ours.encode(text, text_pair)
    assert_encodings_equal(encoding, encode_with_transformers(theirs, text, text_pair=text_pair), 0)
    assert encoding.type_ids.tolist() == [0] * len(encoding)
    assert encoding.positions.tolist() == list(range(len(encoding)))
    assert ours.decode(encoding.ids.tolist()) == theirs.decode(encoding.ids, clean_up_tokenization_spaces=False)


def test_what_the_file_says_of_truncation_and_padding_is_ignored(pair: tuple[Tokenizer, Any]) -> None:
    assert len(pair[0].encode("a")) == 3
    assert len(pair[0].encode(LONG_TEXT)) > 100


@given(text=texts, max_length=st.integers(4, 40), stride=st.integers(0, 20), side=st.sampled_from(TRUNCATION_SIDES))
def test_windows_equal_transformers(
    pair: tuple[Tokenizer, Any], text: str, max_length: int, stride: int, side: str
) -> None:
    assume(stride < max_length - 2)
    ours = list(windows(pair[0].encode(text), max_length=max_length, stride=stride, truncation_side=side))
    theirs = encode_with_transformers(
        pair[1], text, side, truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True
    )
    assert len(ours) == len(theirs["input_ids"])
    for window, encoding in enumerate(ours):
        # With add_prefix_space, tokenizers treats the first token of every window as the first one of the text.
        assert_encodings_equal(
            encoding, theirs, window, offsets=encoding is at_the_start(ours, side) or not pair[1].add_prefix_space
        )


@given(context=texts, max_length=st.integers(12, 40), stride=st.integers(0, 20), side=st.sampled_from(TRUNCATION_SIDES))
def test_windows_of_a_pair_equal_transformers(
    pair: tuple[Tokenizer, Any], context: str, max_length: int, stride: int, side: str
) -> None:
    encoding = pair[0].encode("Ada Lovelace", context)
    assume(stride < max_length - int((encoding.sequences != 1).sum()))
    ours = list(windows(encoding, max_length=max_length, stride=stride, sequence=1, truncation_side=side))
    theirs = encode_with_transformers(
        pair[1],
        "Ada Lovelace",
        side,
        context,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
    )
    assert len(ours) == len(theirs["input_ids"])
    for window, encoding in enumerate(ours):
        assert_encodings_equal(
            encoding, theirs, window, offsets=encoding is at_the_start(ours, side) or not pair[1].add_prefix_space
        )


def at_the_start(found: Sequence[Encoding], side: str) -> Encoding:
    """Return the window with the start of the text."""
    return found[0] if side == RIGHT else found[-1]


@given(text=texts, max_length=st.integers(3, 40), stride=st.integers(0, 20), side=st.sampled_from(TRUNCATION_SIDES))
def test_windows_hold_every_token_and_share_the_stride(
    pair: tuple[Tokenizer, Any], text: str, max_length: int, stride: int, side: str
) -> None:
    whole = pair[0].encode(text)
    assume(stride < max_length - 2)
    found = windows(whole, max_length=max_length, stride=stride, truncation_side=side)
    in_order = found if side == RIGHT else found[::-1]
    parts = [part.positions[1:-1].tolist() for part in in_order]
    assert sorted({position for part in parts for position in part}) == list(range(1, len(whole) - 1))
    assert all(len(part) <= max_length - 2 for part in parts)
    assert all(before[len(before) - stride :] == after[:stride] for before, after in itertools.pairwise(parts))


@pytest.mark.parametrize("side", TRUNCATION_SIDES)
def test_windows_that_are_not_taken_need_no_memory(side: str) -> None:
    count = 100_000
    column = np.arange(count)
    whole = Encoding(column, column, np.stack([column, column], axis=1), column, np.zeros_like(column), column)
    tracemalloc.start()
    found = windows(whole, max_length=64, stride=63, truncation_side=side)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == count - 63
    assert most < 4 * column.nbytes  # a list of windows needs at least a hundred bytes for each
    edges = [(0, 63), (count - 64, count - 1)]
    assert [(one.ids[0], one.ids[-1]) for one in (found[0], found[-1])] == (edges if side == RIGHT else edges[::-1])


@given(text=texts, text_pair=st.none() | texts, max_length=st.integers(8, 60), side=st.sampled_from(TRUNCATION_SIDES))
def test_truncation_equals_transformers(
    pair: tuple[Tokenizer, Any], text: str, text_pair: str | None, max_length: int, side: str
) -> None:
    ours = truncate(pair[0].encode(text, text_pair), max_length, truncation_side=side)
    theirs = encode_with_transformers(pair[1], text, side, text_pair, truncation=True, max_length=max_length)
    # With add_prefix_space, tokenizers treats the first token that is left as the first one of the text.
    assert_encodings_equal(ours, theirs, 0, offsets=side == RIGHT or not pair[1].add_prefix_space)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (None, "None.* str"),
        (b"bytes", "bytes.* str"),
        ("ab\udc80", "Unicode at character 2 .*surrogates not allowed"),
    ],
)
def test_what_is_no_text_is_refused(pair: tuple[Tokenizer, Any], text: Any, facts: str) -> None:
    for arguments in ((text,), ("fine", text)) if text is not None else ((text,),):
        with pytest.raises(InputError, match=facts):
            pair[0].encode(*arguments)


def test_word_pieces_mark_what_continues_a_word() -> None:
    vocabulary = {"[UNK]": 0, "lon": 1, "##don": 2}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    assert Tokenizer(backend).marks_subwords
    assert Tokenizer(backend).unknown_id == 0
    assert Tokenizer(backend).join(["lon", "##don"]) == "lon ##don"


def test_a_bundle_without_a_readable_tokenizer_is_refused(tmp_path: Path) -> None:
    task = TASKS["token-classification"]
    manifest = make_manifest(make_model(task, vocab_size=10).config, task)
    (tmp_path / "model.onnx").write_bytes(b"\x3a\x00")  # an empty graph
    write_manifest(tmp_path, manifest)
    with pytest.raises(ManifestError, match=r"no tokenizer\.json.*--tokenizer"):
        Tokenizer.from_bundle(tmp_path, read_manifest(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    write_manifest(tmp_path, manifest)
    with pytest.raises(ManifestError, match=r"tokenizer\.json .* pip install --upgrade tokenizers"):
        Tokenizer.from_bundle(tmp_path, read_manifest(tmp_path))


def test_an_encoding_can_be_cut(pair: tuple[Tokenizer, Any]) -> None:
    encoding = pair[0].encode(CORPUS[0])
    part = encoding.take(np.array([0, 2]))
    assert len(part) == 2
    assert part.positions.tolist() == [0, 2]
    assert part.ids.tolist() == encoding.ids[[0, 2]].tolist()
