import pytest
from tokenizers import Tokenizer

from training.brown import Document, Word
from training.tokenizer import train_tokenizer
from training.windows import Stream, disjoint_windows, full_windows, streams_of

_START, _END = 0, 2


def _stream(*lengths: int) -> Stream:
    """Return sentences of these lengths in tokens, with all tokens different."""
    tokens = iter(range(10, 1000))
    return Stream(sentences=tuple(tuple(next(tokens) for _ in range(length)) for length in lengths), words=0)


def _tokens(stream: Stream) -> list[int]:
    return [token for sentence in stream.sentences for token in sentence]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["He said yes."] * 3, vocabulary_size=280)


def test_a_paragraph_ends_with_its_sign_and_nothing_else_is_added(tokenizer: Tokenizer) -> None:
    yes = (Word("He", "PRON"), Word("said", "VERB"), Word("yes", "ADV"), Word(".", "."))
    (stream,) = streams_of(tokenizer, [Document(name="ca01", genre="news", paragraphs=((yes, yes), (yes,)))])
    ids = tuple(tokenizer.encode("He said yes.", add_special_tokens=False).ids)
    assert stream.sentences == (ids, (*ids, _END), (*ids, _END))
    assert stream.words == 9


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("lengths", [(3, 4, 2, 5, 3, 4), (3, 30, 4), (9, 9, 9), (2, 7)])
def test_full_windows_are_full_and_hold_every_token(lengths: tuple[int, ...], first: int) -> None:
    stream = _stream(*lengths)
    wanted = [token for sentence in stream.sentences[first:] for token in sentence]
    windows = list(full_windows(stream, length=8, first=first))
    assert {len(window) for window in windows} == {8}
    assert {window[0] for window in windows} == {_START}
    assert set(wanted) <= {token for window in windows for token in window[1:]}
    text = _tokens(stream)
    assert all(text[text.index(window[1]) :][:7] == window[1:] for window in windows)


def test_a_full_window_begins_with_the_sentence_that_the_one_before_cut_off() -> None:
    stream = _stream(3, 3, 3, 3, 3)
    starts = [window[1] for window in full_windows(stream, length=9)]
    assert starts == [10, 16, 17]  # sentences 0 and 2, and the last 8 tokens


def test_a_sentence_that_just_fits_is_not_repeated() -> None:
    assert [window[1] for window in full_windows(_stream(4, 4, 4, 4, 4, 4), length=9)] == [10, 18, 26]


def test_a_stream_that_is_too_short_has_no_full_windows() -> None:
    assert list(full_windows(_stream(3), length=8)) == []


@pytest.mark.parametrize("lengths", [(3, 4, 2, 5, 3, 4), (3, 30, 4), (7, 7), (1,), (20,)])
def test_disjoint_windows_hold_every_token_once(lengths: tuple[int, ...]) -> None:
    stream = _stream(*lengths)
    windows = list(disjoint_windows(stream, length=8))
    assert [token for window in windows for token in window[1:]] == _tokens(stream)
    assert {window[0] for window in windows} == {_START}
    assert all(2 <= len(window) <= 8 for window in windows)


def test_disjoint_windows_keep_sentences_whole() -> None:
    assert [len(window) for window in disjoint_windows(_stream(3, 4, 2, 5, 3), length=8)] == [8, 8, 4]
