"""What the post-processing of every task has in common: tokens in, rows of the batch back, an answer out."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Manifest
from rpln_runtime.options import check_boolean
from rpln_runtime.tokenization import Encoding, Tokenizer, truncate

Scores = TypeVar("Scores")


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """A row of a batch that has run: its tokens, and the outputs of the graph for them, fp32 and without padding."""

    encoding: Encoding
    outputs: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class FinishedItem(Generic[Scores]):
    """An item that has run: what was asked, the rows it became, and the scores of each."""

    item: Any
    encodings: Sequence[Encoding]
    scores: Sequence[Scores]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemField:
    """A named part of an item: a text, or a list of texts where `several`. An `optional` one may be left out."""

    name: str
    optional: bool = False
    several: bool = False


TEXT_FIELD: Final = ItemField(name="text")


@dataclass(frozen=True, kw_only=True)
class Postprocess(ABC, Generic[Scores]):
    """How the items of a task become rows of a batch, and the outputs for these rows an answer.

    The fields of a subclass are the options of its task, with their defaults. They are checked when an instance is
    made, which raises InputError. `fields` are the parts of an item. Where there is only `text`, the item is the text
    itself; otherwise it is a mapping, such as {"question": ..., "context": ...}.
    """

    manifest: Manifest
    tokenizer: Tokenizer

    fields: ClassVar[tuple[ItemField, ...]] = (TEXT_FIELD,)

    @abstractmethod
    def encode(self, item: Any) -> list[Encoding]:
        """Return the rows to run for `item`. Raises InputError for an item that is not what the task takes."""

    @abstractmethod
    def score(self, row: FinishedRow) -> Scores:
        """Reduce the outputs of one row to what the answer needs of them.

        It runs as soon as the row's batch is done and must return no view, so that the batch's memory is freed.
        """

    @abstractmethod
    def answer(self, case: FinishedItem[Scores]) -> Any:
        """Return the answer for an item from the scores of its rows."""

    def results(self, answers: list[Any], *, single: bool) -> Any:
        """Return what the caller gets: one answer for one item, a list for a list."""
        return answers[0] if single else answers

    def fit(self, encoding: Encoding, *, truncation: bool) -> Encoding:
        """Cut `encoding` to the usable length when `truncation` allows it. Raises InputError when it does not."""
        limit = self.manifest.usable_length
        if len(encoding) > limit and not truncation:
            raise InputError(
                f"a text has {len(encoding)} tokens, the limit of this model is {limit}: "
                "shorten it, or pass truncation=True to leave out what lies beyond."
            )
        return truncate(encoding, limit)


def check_options(row: type[Postprocess[Any]], options: Mapping[str, Any], task: str) -> None:
    """Raise InputError for what is no option of `row`, the post-processing of `task`."""
    inherited = {field.name for field in dataclasses.fields(Postprocess)}
    known = {field.name: field.type for field in dataclasses.fields(row) if field.name not in inherited}
    for name, value in options.items():
        if name not in known:
            raise InputError(f"unknown option {name!r} for {task}: expected one of {', '.join(known)}.")
        if known[name] is bool:
            check_boolean(name, value)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def item_from_parts(parts: Mapping[str, Any]) -> Any:
    """Return the item that has these parts by name: the text itself where there is only `text`, else a mapping."""
    return parts[TEXT_FIELD.name] if list(parts) == [TEXT_FIELD.name] else dict(parts)


def fields_from_item(item: Any, fields: Sequence[ItemField]) -> dict[str, Any]:
    """Return `item` as a dict. Raises InputError unless it is a mapping with `fields` and nothing else."""
    names = [field.name for field in fields]
    expected = "a mapping with " + ", ".join(map(repr, names))
    if not isinstance(item, Mapping):
        raise InputError(f"an item is a {type(item).__name__}, expected {expected}.")
    missing = [field.name for field in fields if field.name not in item and not field.optional]
    unknown = [name for name in item if name not in names]
    if missing or unknown:
        raise InputError(f"an item has the keys {', '.join(map(repr, item))}, expected {expected}.")
    return dict(item)
