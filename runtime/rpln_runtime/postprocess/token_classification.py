"""Token classification: a label for every token, or the entities that tokens form.

The answers equal those of transformers' TokenClassificationPipeline (4.57 and 5.x), with these differences:

- A text that is too long is never cut. It is read in windows that overlap, as transformers reads it if it is given a
  stride; here this is done for the strategy "none", too.
- Offsets in later windows are those in the whole text. With a tokenizer that has add_prefix_space, those of
  transformers include the space before the first word of a window.
- An entity without characters at the start of a long text is not listed twice.
- Scores are Python's floats.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.options import check_choice, check_integer, check_texts, shown_kind
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow, ItemField, Postprocess, softmax
from rpln_runtime.tokenization import Encoding, join_encodings, windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token, or a word that consists of several.

    Attributes:
        word: the name of the token in the vocabulary, or the text of the word.
        scores: the probabilities of the labels, (labels).
        start: the first character in the text.
        end: the character after the last.
        index: the place of the (first) token in the whole text, special tokens included.
        continues_word: whether the token continues the word of the token before.
    """

    word: str
    scores: np.ndarray
    start: int
    end: int
    index: int
    continues_word: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A token or word with its label.

    Attributes:
        label: the name of the label.
        score: the probability of the label.
        word: the name of the token, or the text of the word.
        start: the first character in the text.
        end: the character after the last.
        index: the place of the (first) token in the whole text, special tokens included.
    """

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int


class TokenEntity(TypedDict):
    """A token in the answer of the strategy "none".

    Attributes:
        entity: the name of the label.
        score: the probability of the label.
        index: the place of the token in the whole text, special tokens included.
        word: the name of the token in the vocabulary.
        start: the first character in the text.
        end: the character after the last.
    """

    entity: str
    score: float
    index: int
    word: str
    start: int
    end: int


class EntityGroup(TypedDict):
    """An entity in the answer of the other strategies.

    Attributes:
        entity_group: the name of the label, without "B-" or "I-".
        score: the mean of the probabilities of its tokens or words.
        word: the text of the entity, made of its tokens as transformers does it. Unless the strategy is "simple",
            characters that are not ASCII come out wrong: text[start:end] is the exact text.
        start: the first character in the text.
        end: the character after the last.
    """

    entity_group: str
    score: float
    word: str
    start: int
    end: int


_WORD_SCORES: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "first": lambda scores: scores[0],
    "average": lambda scores: scores.mean(axis=0),
    "max": lambda scores: scores[scores.max(axis=1).argmax()],
}
"""The functions that turn the probabilities of a word's tokens, (tokens, labels), into its own, (labels), by strategy.
"""
_STRATEGIES: Final = ("none", "simple", *_WORD_SCORES)
"""The aggregation strategies."""


@dataclass(frozen=True, kw_only=True)
class TokenClassification(Postprocess[np.ndarray]):
    """Token classification and its options.

    Attributes:
        aggregation_strategy: "none" gives every token. "simple" joins neighbours with the same label to entities.
            "first", "average" and "max" do so with words, whose label is that of their first token, the one with the
            highest mean, or the one with the highest score.
        ignore_labels: labels that are left out of the answer.
        stride: how many tokens two windows over a long text share. None means a quarter of the usable length.
        is_split_into_words: whether an item is a list of words instead of a text. No token then reaches over words, and
            the text that offsets are counted in is the words joined by the delimiter. The tokenizer must put a space
            before a text (add_prefix_space), as transformers demands it, too.
        delimiter: what stands between two words in that text.
    """

    aggregation_strategy: str = "none"
    ignore_labels: Sequence[str] = ("O",)
    stride: int | None = None
    is_split_into_words: bool = False
    delimiter: str = " "

    def __post_init__(self) -> None:
        check_choice("aggregation_strategy", self.aggregation_strategy, _STRATEGIES)
        check_texts("ignore_labels", self.ignore_labels)
        if self.stride is not None:
            check_integer("stride", self.stride, minimum=0, maximum=self.manifest.usable_length - 1)
        if not isinstance(self.delimiter, str):
            raise InputError(f"delimiter is {self.delimiter!r}, expected a str.")
        if self.is_split_into_words and not self.tokenizer.takes_words:
            raise InputError(
                "is_split_into_words needs a tokenizer that puts a space before a text (add_prefix_space), which that "
                'of this bundle does not. Pass " ".join(words) instead of the words.'
            )

    def item_fields(self) -> tuple[ItemField, ...]:
        """Return the only part of an item: a text or, if texts come in words, a list of words."""
        return (ItemField(name="text", several=self.is_split_into_words),)

    def is_item(self, inputs: Any) -> bool:
        """Return whether the `inputs` of a call are one item: a text or, if texts come in words, a list of words."""
        if not self.is_split_into_words:
            return super().is_item(inputs)
        return isinstance(inputs, str) or (isinstance(inputs, list) and all(isinstance(word, str) for word in inputs))

    def encode(self, item: Any) -> Sequence[Encoding]:
        """Return the tokens of each window over the text or the words `item`."""
        limit = self.manifest.usable_length
        stride = limit // 4 if self.stride is None else self.stride
        encoding, side = self._encoding(item), self.manifest.truncation_side
        return windows(encoding, max_length=limit, stride=stride, truncation_side=side)

    def _encoding(self, item: Any) -> Encoding:
        if not self.is_split_into_words:
            return self.tokenizer.encode(item)
        if not isinstance(item, list):
            raise InputError(f"with is_split_into_words, an item is {shown_kind(item)}, expected a list of words.")
        return self.tokenizer.encode_words(item, delimiter=self.delimiter)

    def score(self, row: FinishedRow) -> np.ndarray:
        """Return the probabilities of the labels, (tokens, labels)."""
        return softmax(row.outputs["logits"])

    def answer(self, finished: FinishedItem[np.ndarray]) -> list[TokenEntity] | list[EntityGroup]:
        """Return the tokens or entities of the text, in order."""
        text = self.delimiter.join(finished.item) if self.is_split_into_words else finished.item
        if self.aggregation_strategy == "none":
            return self._tokens(text, *merge_windows(finished.encodings, finished.scores))
        groups = [
            group
            for encoding, scores in zip(finished.encodings, finished.scores, strict=True)
            for group in self._groups(text, encoding, scores)
        ]
        return drop_overlaps(groups) if len(finished.encodings) > 1 else groups

    def _tokens(self, text: str, encoding: Encoding, scores: np.ndarray) -> list[TokenEntity]:
        labelled = (_label(token, self.manifest.labels) for token in self._read(text, encoding, scores))
        return [
            TokenEntity(
                entity=token.label,
                score=token.score,
                index=token.index,
                word=token.word,
                start=token.start,
                end=token.end,
            )
            for token in labelled
            if token.label not in self.ignore_labels
        ]

    def _groups(self, text: str, encoding: Encoding, scores: np.ndarray) -> list[EntityGroup]:
        tokens: Iterator[Token] = self._read(text, encoding, scores)
        if self.aggregation_strategy in _WORD_SCORES:
            join, word_scores = self.tokenizer.join, _WORD_SCORES[self.aggregation_strategy]
            tokens = (_word_from_tokens(word, join, word_scores) for word in split_words(tokens))
        entities = split_entities([_label(token, self.manifest.labels) for token in tokens])
        groups = (_group_from_tokens(entity, self.tokenizer.join) for entity in entities)
        return [group for group in groups if group["entity_group"] not in self.ignore_labels]

    def _read(self, text: str, encoding: Encoding, scores: np.ndarray) -> Iterator[Token]:
        """Yield the tokens of the text, without special tokens. `scores` has a row for every token of `encoding`."""
        inside = np.flatnonzero(encoding.sequences == 0)
        tokens = encoding.take(inside)
        columns = (tokens.ids.tolist(), tokens.offsets.tolist(), tokens.positions.tolist(), scores[inside])
        for token_id, (start, end), position, token_scores in zip(*columns, strict=True):
            word = self.tokenizer.token(token_id)
            continues_word = (
                len(word) != end - start if self.tokenizer.marks_subwords else not _starts_word(text, start)
            )
            if token_id == self.tokenizer.unknown_id:
                word, continues_word = text[start:end], False
            yield Token(
                word=word,
                scores=token_scores,
                start=start,
                end=end,
                index=position,
                continues_word=continues_word,
            )


def merge_windows(encodings: Sequence[Encoding], scores: Sequence[np.ndarray]) -> tuple[Encoding, np.ndarray]:
    """Return one encoding of all windows, and its scores, (tokens, labels).

    A token that is in several windows has the scores of the window in which it is farthest from both ends.
    """
    whole = join_encodings(encodings)
    depth = np.concatenate([np.minimum(rows := np.arange(len(encoding)), rows[::-1]) for encoding in encodings])
    # By place in the text, and for each place the row farthest inside its window first: that one is kept.
    order = np.lexsort((-depth, whole.positions))
    _, first = np.unique(whole.positions[order], return_index=True)
    return whole.take(order[first]), np.concatenate(scores)[order[first]]


def split_words(tokens: Iterator[Token]) -> Iterator[list[Token]]:
    """Yield the tokens of each word. A word ends before a token that does not continue it."""
    word: list[Token] = []
    for token in tokens:
        if word and not token.continues_word:
            yield word
            word = []
        word.append(token)
    if word:
        yield word


def split_entities(tokens: Sequence[Labelled]) -> Iterator[list[Labelled]]:
    """Yield the tokens or words of each entity: neighbours with the same label, apart from "B-" or "I-".

    "B-" begins a new entity, and a label without "B-" or "I-" counts as one with "I-".
    """
    entity: list[Labelled] = []
    for token in tokens:
        if entity and (token.label.startswith("B-") or _tag(token.label) != _tag(entity[-1].label)):
            yield entity
            entity = []
        entity.append(token)
    if entity:
        yield entity


def drop_overlaps(groups: Sequence[EntityGroup]) -> list[EntityGroup]:
    """Return `groups` without entities that overlap a better one, in order of their starts.

    Such entities are found in two windows. The longer one is better, and of two that are equally long, the one with the
    higher score.
    """
    kept: list[EntityGroup] = []
    for group in sorted(groups, key=lambda group: group["start"]):
        if not kept or not kept[-1]["start"] <= group["start"] < kept[-1]["end"]:
            kept.append(group)
        elif _rank(group) > _rank(kept[-1]):
            kept[-1] = group
    return kept


def _rank(group: EntityGroup) -> tuple[int, float]:
    """Return a key that is greater for a better entity."""
    return group["end"] - group["start"], group["score"]


def _starts_word(text: str, start: int) -> bool:
    """Return whether a token of byte-level BPE begins a word.

    It does at the start of the text, at a space, and right after a space.
    """
    return start == 0 or " " in text[start - 1 : start + 1]


def _tag(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _label(token: Token, labels: Sequence[str]) -> Labelled:
    best = int(token.scores.argmax())
    return Labelled(
        label=labels[best],
        score=float(token.scores[best]),
        word=token.word,
        start=token.start,
        end=token.end,
        index=token.index,
    )


def _word_from_tokens(
    tokens: Sequence[Token],
    join: Callable[[Sequence[str]], str],
    word_scores: Callable[[np.ndarray], np.ndarray],
) -> Token:
    return Token(
        word=join([token.word for token in tokens]),
        scores=word_scores(np.stack([token.scores for token in tokens])),
        start=tokens[0].start,
        end=tokens[-1].end,
        index=tokens[0].index,
        continues_word=False,
    )


def _group_from_tokens(tokens: Sequence[Labelled], join: Callable[[Sequence[str]], str]) -> EntityGroup:
    return EntityGroup(
        entity_group=tokens[0].label.split("-", 1)[-1],
        score=float(np.mean([token.score for token in tokens])),
        word=join([token.word for token in tokens]),
        start=tokens[0].start,
        end=tokens[-1].end,
    )
