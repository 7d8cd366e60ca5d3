"""Token classification: a label for every token, or groups of tokens that are one entity.

Results equal those of transformers' TokenClassificationPipeline (4.57 and 5.x) with these differences. A text that is
too long is never cut: it is read in overlapping windows, as transformers does when given a stride, also for "none".
Offsets in later windows are those of the whole text, where tokenizers with add_prefix_space count the space before a
window's first word. An entity of no characters at the start of a long text is not listed twice. Scores are floats.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.options import check_choice, check_integer
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow, Postprocess, softmax
from rpln_runtime.tokenization import Encoding, join_encodings, windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token, or a word made of some: label probabilities, first and past-the-last character, place in the text."""

    word: str
    scores: np.ndarray
    start: int
    end: int
    index: int
    continues_word: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A token or word with the label it got."""

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int


class TokenEntity(TypedDict):
    """Answer of the strategy "none". `index` counts tokens of the whole text, special tokens included."""

    entity: str
    score: float
    index: int
    word: str
    start: int
    end: int


class EntityGroup(TypedDict):
    """Answer of the other strategies; `entity_group` is the label without its B- or I-.

    `word` is put together from tokens as transformers does it, which garbles what is not ASCII unless the strategy is
    "simple"; the exact text is text[start:end].
    """

    entity_group: str
    score: float
    word: str
    start: int
    end: int


# How the probabilities of a word follow from those of its tokens, (tokens, labels) -> (labels).
_WORD_SCORES: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "first": lambda scores: scores[0],
    "average": lambda scores: scores.mean(axis=0),
    "max": lambda scores: scores[scores.max(axis=1).argmax()],
}
_STRATEGIES: Final = ("none", "simple", *_WORD_SCORES)


@dataclass(frozen=True, kw_only=True)
class TokenClassification(Postprocess[np.ndarray]):
    """Options of token classification.

    Attributes:
        aggregation_strategy: "none" answers with every token; "simple" joins neighbours of one label, and "first",
            "average" and "max" give one label to a word before that: its first token's, the one with the highest mean,
            the one with the highest score.
        ignore_labels: labels that are left out of the answer.
        stride: how many tokens two windows share when a text is too long; None: a quarter of the usable length.
    """

    aggregation_strategy: str = "none"
    ignore_labels: Sequence[str] = ("O",)
    stride: int | None = None

    def __post_init__(self) -> None:
        check_choice("aggregation_strategy", self.aggregation_strategy, _STRATEGIES)
        if isinstance(self.ignore_labels, str):
            raise InputError(f"ignore_labels is {self.ignore_labels!r}, expected a list of labels.")
        if self.stride is not None:
            check_integer("stride", self.stride, minimum=0, maximum=self.manifest.usable_length - 1)

    def encode(self, item: Any) -> list[Encoding]:
        """Split the text `item` into windows."""
        limit = self.manifest.usable_length
        stride = limit // 4 if self.stride is None else self.stride
        return windows(self.tokenizer.encode(item), max_length=limit, stride=stride)

    def score(self, row: FinishedRow) -> np.ndarray:
        """Return the probabilities of the labels, (tokens, labels)."""
        return softmax(row.outputs["logits"])

    def answer(self, case: FinishedItem[np.ndarray]) -> list[TokenEntity] | list[EntityGroup]:
        """Return the entities in a text, in order."""
        if self.aggregation_strategy == "none":
            return self._tokens(case.item, *merge_windows(case.encodings, case.scores))
        groups = [
            group
            for encoding, scores in zip(case.encodings, case.scores, strict=True)
            for group in self._groups(case.item, encoding, scores)
        ]
        return drop_overlaps(groups) if len(case.encodings) > 1 else groups

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
        """Yield the tokens of `text` itself. `scores` has a row for every token of `encoding`."""
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
    """Join windows into the encoding they were cut from; a token in several keeps the scores it has farthest inside."""
    whole = join_encodings(encodings)
    depth = np.concatenate([np.minimum(rows := np.arange(len(encoding)), rows[::-1]) for encoding in encodings])
    # By place in the text, deepest first: the first row of each place is the one to keep.
    order = np.lexsort((-depth, whole.positions))
    _, first = np.unique(whole.positions[order], return_index=True)
    return whole.take(order[first]), np.concatenate(scores)[order[first]]


def split_words(tokens: Iterator[Token]) -> Iterator[list[Token]]:
    """Group tokens into words: a word goes on as long as tokens say that they continue it."""
    word: list[Token] = []
    for token in tokens:
        if word and not token.continues_word:
            yield word
            word = []
        word.append(token)
    if word:
        yield word


def split_entities(tokens: Sequence[Labelled]) -> Iterator[list[Labelled]]:
    """Group neighbours with one tag into entities; B- starts a new one, a label without B- or I- counts as I-."""
    entity: list[Labelled] = []
    for token in tokens:
        if entity and (token.label.startswith("B-") or _tag(token.label) != _tag(entity[-1].label)):
            yield entity
            entity = []
        entity.append(token)
    if entity:
        yield entity


def drop_overlaps(groups: Sequence[EntityGroup]) -> list[EntityGroup]:
    """Of entities that two windows found, keep the longer, and of equally long ones that with the better score."""
    kept: list[EntityGroup] = []
    for group in sorted(groups, key=lambda group: group["start"]):
        if not kept or not kept[-1]["start"] <= group["start"] < kept[-1]["end"]:
            kept.append(group)
        elif _rank(group) > _rank(kept[-1]):
            kept[-1] = group
    return kept


def _rank(group: EntityGroup) -> tuple[int, float]:
    return group["end"] - group["start"], group["score"]


def _starts_word(text: str, start: int) -> bool:
    """A byte-level token starts a word where the text starts, and at or right after a space."""
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
