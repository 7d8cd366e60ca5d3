"""Data of language models: each document as one stream of tokens, cut into windows that begin with a sentence.

A paragraph ends with </s>. A window begins with <s>, which stands nowhere else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from training.brown import Document
from training.plain_text import text_from_words
from training.tokenizer import END_ID, START_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """The tokens of a document's sentences, without <s>, and the document's number of words between spaces."""

    sentences: tuple[tuple[int, ...], ...]
    words: int


def streams_of(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Stream]:
    """Return the documents as streams, in which the last sentence of every paragraph ends with </s>."""
    return [_stream_of(tokenizer, document) for document in documents]


def full_windows(stream: Stream, *, length: int, first: int = 0) -> Iterator[list[int]]:
    """Yield windows of exactly `length` tokens that together hold every token from sentence `first` on.

    Some tokens are in two windows: a sentence that does not fit whole begins the next window again, unless it fills a
    window alone, and the last window reaches back as far as it needs. A stream that is too short has no window.
    """
    room = length - 1
    tokens = [token for sentence in stream.sentences for token in sentence]
    starts = _starts(stream)
    position = starts[first]
    while position + room < len(tokens):
        yield [START_ID, *tokens[position : position + room]]
        within = [start for start in starts if position < start <= position + room]
        position = within[-1] if within else position + room
    if len(tokens) >= room:
        yield [START_ID, *tokens[-room:]]


def disjoint_windows(stream: Stream, *, length: int) -> Iterator[list[int]]:
    """Yield windows of at most `length` tokens that hold every token once, in whole sentences where these fit."""
    window = [START_ID]
    for sentence in stream.sentences:
        if len(window) > 1 and len(window) + len(sentence) > length:
            yield window
            window = [START_ID]
        rest = list(sentence)
        while len(window) + len(rest) > length:
            room = length - len(window)
            yield [*window, *rest[:room]]
            window, rest = [START_ID], rest[room:]
        window += rest
    if len(window) > 1:
        yield window


def _stream_of(tokenizer: Tokenizer, document: Document) -> Stream:
    texts = [[text_from_words(sentence).text for sentence in paragraph] for paragraph in document.paragraphs]
    sentences = []
    for paragraph in texts:
        encodings = tokenizer.encode_batch(paragraph, add_special_tokens=False)
        sentences += [tuple(encoding.ids) for encoding in encodings]
        sentences[-1] += (END_ID,)
    return Stream(sentences=tuple(sentences), words=sum(len(text.split()) for paragraph in texts for text in paragraph))


def _starts(stream: Stream) -> list[int]:
    starts, position = [], 0
    for sentence in stream.sentences:
        starts.append(position)
        position += len(sentence)
    return starts
