"""FIELDS: what a request to the ensemble holds, by post-processing, and how it becomes the items of a pipeline.

Shapes: B items of a request.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rpln_runtime.errors import InputError

OPTIONS: Final = "options"
"""The optional input of every ensemble: a JSON object with options of the task, for one item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A string tensor of a request, (B, 1), or (B, any number) where `several`."""

    name: str
    optional: bool = False
    several: bool = False


_TEXT: Final = (Field(name="text"),)

FIELDS: Final[dict[str, tuple[Field, ...]]] = {
    "feature_extraction": _TEXT,
    "fill_mask": _TEXT,
    "multiple_choice": (Field(name="prompt"), Field(name="choices", several=True)),
    "question_answering": (Field(name="question"), Field(name="context")),
    "text_classification": (*_TEXT, Field(name="text_pair", optional=True)),
    "token_classification": _TEXT,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """An item as a pipeline takes it, and the options of the task that it came with."""

    item: Any
    options: dict[str, Any]

    def to_json(self) -> str:
        """Write it for the step after."""
        return json.dumps({"item": self.item, "options": self.options})

    @classmethod
    def from_json(cls, text: bytes) -> "Asked":
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def asked_from_arrays(arrays: Mapping[str, np.ndarray], fields: tuple[Field, ...]) -> list[Asked]:
    """The items of a request. Raises InputError for what is no UTF-8 and for options that are no JSON object."""
    given = [field for field in fields if field.name in arrays]
    rows = zip(*(arrays[field.name] for field in given), strict=True)
    options = arrays.get(OPTIONS)
    return [
        Asked(
            _item(dict(zip(given, row, strict=True))),
            {} if options is None else options_from_text(options[place, 0]),
        )
        for place, row in enumerate(rows)
    ]


def options_from_text(text: bytes) -> dict[str, Any]:
    """Read options. Raises InputError for what is no JSON object; none are those of an empty text."""
    try:
        options = json.loads(text_from_bytes(text, OPTIONS) or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f'{OPTIONS} is no JSON ({error}): expected an object, such as {{"top_k": 3}}.') from error
    if not isinstance(options, dict):
        raise InputError(f'{OPTIONS} is a {type(options).__name__}, expected a JSON object, such as {{"top_k": 3}}.')
    return options


def text_from_bytes(value: bytes, name: str) -> str:
    """Decode an element of a string tensor. Raises InputError for what is no UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no UTF-8 at byte {error.start} ({error.reason}): send texts as UTF-8.") from error


def _item(values: Mapping[Field, np.ndarray]) -> Any:
    texts = {field: [text_from_bytes(value, field.name) for value in row] for field, row in values.items()}
    item = {field.name: row if field.several else row[0] for field, row in texts.items()}
    return item["text"] if item.keys() == {"text"} else item
