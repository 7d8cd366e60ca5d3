"""What the tagger learns: passages of a document, written in varied styles, as token ids and labels.

B is the number of examples in a batch, T the number of tokens of the longest.
"""

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeVar

from tokenizers import Encoding, Tokenizer

from training.batches import IGNORED, Batch, padded_inputs, padded_table
from training.brown import Document
from training.plain_text import AS_PRINTED, Case, Style, TaggedText, text_from_words
from training.tags import TAGS

_Value = TypeVar("_Value")

_TAG_IDS: Final = {tag: index for index, tag in enumerate(TAGS)}

# By number of sentences. Most people tag one; long passages are there so that every position is trained.
_PASSAGE_SHARES: Final = {range(1, 2): 0.6, range(2, 6): 0.3, range(6, 13): 0.1}
_CASE_SHARES: Final = {Case.AS_IS: 0.8, Case.LOWER: 0.12, Case.TITLE: 0.04, Case.UPPER: 0.04}
_TYPOGRAPHIC_SHARE: Final = 0.15
_NO_FINAL_STOP_SHARE: Final = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedExample:
    """A tokenized text: the id of each token, the label of its word, and whether it is the first token of the word."""

    token_ids: list[int]
    labels: list[int]
    is_first: list[bool]

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.token_ids)


def texts_of(documents: Sequence[Document], *, sentences: int = 1, style: Style = AS_PRINTED) -> list[TaggedText]:
    """Return the documents in passages of so many sentences; the last passage of a document may be shorter."""
    return [
        _passage(document, start, start + sentences, style)
        for document in documents
        for start in range(0, len(document.sentences), sentences)
    ]


def varied_texts(documents: Sequence[Document], *, rng: random.Random) -> list[TaggedText]:
    """Return the documents cut at random into passages of 1 to 12 sentences, each in a random style."""
    texts = []
    for document in documents:
        start = 0
        while start < len(document.sentences):
            lengths = _drawn(_PASSAGE_SHARES, rng)
            end = start + rng.choice(lengths)
            texts.append(_passage(document, start, end, _drawn_style(rng)))
            start = end
    return texts


def encode_texts(tokenizer: Tokenizer, texts: Sequence[TaggedText]) -> list[TaggedExample]:
    """Tokenize the texts and label every token with the tag of its word."""
    encodings = tokenizer.encode_batch([text.text for text in texts])
    return [_label_tokens(encoding, text) for encoding, text in zip(encodings, texts, strict=True)]


def tagger_batch(examples: Sequence[TaggedExample]) -> Batch:
    """Return the examples padded, with labels (B, T)."""
    return {
        **padded_inputs([example.token_ids for example in examples]),
        "labels": padded_table([example.labels for example in examples], padding=IGNORED),
    }


def _passage(document: Document, start: int, end: int, style: Style) -> TaggedText:
    return text_from_words(list(chain.from_iterable(document.sentences[start:end])), style=style)


def _drawn_style(rng: random.Random) -> Style:
    return Style(
        case=_drawn(_CASE_SHARES, rng),
        typographic=rng.random() < _TYPOGRAPHIC_SHARE,
        final_stop=rng.random() >= _NO_FINAL_STOP_SHARE,
    )


def _drawn(shares: Mapping[_Value, float], rng: random.Random) -> _Value:
    return rng.choices(tuple(shares), weights=tuple(shares.values()))[0]


def _label_tokens(encoding: Encoding, text: TaggedText) -> TaggedExample:
    """Find the word of each token by the position of its first character; no token spans two words."""
    labels, is_first = [], []
    last_word = None
    for start, end in encoding.offsets:
        word = bisect_right(text.starts, start) - 1 if end > start else None  # <s>, </s> and lone spaces are empty
        labels.append(IGNORED if word is None else _TAG_IDS[text.tags[word]])
        is_first.append(word is not None and word != last_word)
        last_word = word
    return TaggedExample(token_ids=encoding.ids, labels=labels, is_first=is_first)
