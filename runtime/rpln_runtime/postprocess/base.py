"""The base of all post-processing: items become rows of a batch, and the outputs for these rows become answers."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Manifest
from rpln_runtime.options import check_boolean, shown_kind
from rpln_runtime.tokenization import Encoding, Tokenizer, truncate

Scores = TypeVar("Scores")
"""What a task keeps of the outputs for a row."""


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """A row of a batch, after its graph has run.

    Attributes:
        encoding: the tokens of the row.
        outputs: the outputs for the row by name, fp32, without padding.
    """

    encoding: Encoding
    outputs: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class FinishedItem(Generic[Scores]):
    """An item, after the graph has run for all its rows.

    Attributes:
        item: the item as the caller gave it.
        encodings: the tokens of each row that the item became.
        scores: what `Postprocess.score` returned for each row.
    """

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
_CUT_IT: Final = "shorten it, or pass truncation=True to cut it."


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

    def item_fields(self) -> tuple[ItemField, ...]:
        """Return the parts of an item, as the options have them."""
        return self.fields

    def is_item(self, inputs: Any) -> bool:
        """Return whether the `inputs` of a call are one item, and not a list of items."""
        return isinstance(inputs, str | Mapping)

    @abstractmethod
    def encode(self, item: Any) -> Sequence[Encoding]:
        """Return the tokens of each row for `item`. Raises InputError for an item that the task does not take."""

    def decoded_texts(self, _: Encoding, /) -> int:
        """Return how many texts the answer has for a row that are decoded from as many tokens as the row has."""
        return 0

    @abstractmethod
    def score(self, row: FinishedRow) -> Scores:
        """Return what the answer needs of the outputs for a row.

        It is called as soon as the row's batch has run, and returns no view of the outputs, so that they can be freed.
        """

    @abstractmethod
    def answer(self, finished: FinishedItem[Scores]) -> Any:
        """Return the answer for an item whose rows have all run."""

    def results(self, answers: list[Any], *, single: bool) -> Any:
        """Return what the caller gets: the answer for a single item, or the list of answers."""
        return answers[0] if single else answers

    def encode_fitting(
        self, text: str, pair: str | None = None, *, truncation: bool, max_length: int | None = None
    ) -> Encoding:
        """Return the tokens of a text or a pair, cut to `max_length` if `truncation` allows it.

        None means the usable length. Raises InputError for a text that is too long and must not be cut, before it is
        tokenized if its bytes show that.
        """
        limit = self.manifest.usable_length
        if not truncation:
            for part in (text,) if pair is None else (text, pair):
                self.tokenizer.check_bytes(part, limit, advice=_CUT_IT)
        encoding = self.tokenizer.encode(text, pair)
        if len(encoding) > limit and not truncation:
            raise InputError(f"a text has {len(encoding)} tokens, but the limit of this model is {limit}: {_CUT_IT}")
        return truncate(encoding, min(limit, max_length or limit), truncation_side=self.manifest.truncation_side)


def options_of(row: type[Postprocess[Any]]) -> dict[str, Any]:
    """Return the types of the options of `row`, the class of a task, by their names."""
    inherited = {field.name for field in dataclasses.fields(Postprocess)}
    return {field.name: field.type for field in dataclasses.fields(row) if field.name not in inherited}


def check_options(row: type[Postprocess[Any]], options: Mapping[str, Any], task: str) -> None:
    """Raise InputError for an option that `row`, the class of `task`, does not have.

    A boolean option must also have the value True or False.
    """
    known = options_of(row)
    for name, value in options.items():
        if name not in known:
            raise InputError(f"unknown option {name!r} for {task}: expected one of {', '.join(known)}.")
        if known[name] is bool:
            check_boolean(name, value)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax of `logits` along the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def item_from_parts(parts: Mapping[str, Any]) -> Any:
    """Return the item that has these parts by name: the text itself where there is only `text`, else a mapping."""
    return parts[TEXT_FIELD.name] if list(parts) == [TEXT_FIELD.name] else dict(parts)


def fields_from_item(item: Any, fields: Sequence[ItemField]) -> dict[str, Any]:
    """Return `item` as a dict. Raises InputError unless it is a mapping with `fields` and nothing else."""
    names = [field.name for field in fields]
    shown = ", ".join(f"{field.name!r}{' (optional)' * field.optional}" for field in fields)
    expected = f"{'a text or ' * (TEXT_FIELD in fields)}a mapping with {shown}"
    if not isinstance(item, Mapping):
        raise InputError(f"an item is {shown_kind(item)}, expected {expected}.")
    missing = [field.name for field in fields if field.name not in item and not field.optional]
    unknown = [name for name in item if name not in names]
    if missing or unknown:
        raise InputError(f"an item has the keys {', '.join(map(repr, item))}, expected {expected}.")
    return dict(item)
