"""A request to the ensemble: how its tensors become the items of a pipeline, with the options they came with.

Each field of an item is a string tensor, of shape (B, 1), or (B, N) where the field holds several texts.

Shapes: B items of a request, N texts of the longest field.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rpln_runtime.documents import DocumentError, document_from_bytes
from rpln_runtime.errors import InputError
from rpln_runtime.limits import OTHER
from rpln_runtime.postprocess.base import ItemField, item_from_parts

OPTIONS: Final = "options"
"""The input that every ensemble has and clients may leave out: a JSON object with options of the task, for one item."""

MOST_OPTION_BYTES: Final = 1 << 16
"""The most bytes of the options of an item."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An item as a pipeline takes it, and the options of the task that came with it."""

    item: Any
    options: dict[str, Any]

    def to_json(self) -> str:
        """Return JSON text, which the first step hands to the last one."""
        return json.dumps({"item": self.item, "options": self.options})

    @classmethod
    def from_json(cls, text: bytes) -> "Asked":
        """Read what `to_json` returned."""
        return cls(**json.loads(text))


def asked_from_arrays(
    arrays: Mapping[str, np.ndarray], fields: Sequence[ItemField], *, max_text_bytes: int
) -> list[Asked]:
    """Return the items of a request.

    Raises InputError for texts and options that have more than `max_text_bytes` together, for a text that is not UTF-8,
    and for options that are not a JSON object.
    """
    given = [field for field in fields if field.name in arrays]
    rows = list(zip(*(arrays[field.name] for field in given), strict=True))
    options = arrays.get(OPTIONS)
    of_texts = sum(_bytes_to_tokenize(dict(zip(given, row, strict=True))) for row in rows)
    check_text_bytes(of_texts + (0 if options is None else sum(map(len, options[:, 0]))), max_text_bytes)
    return [
        Asked(
            _item(dict(zip(given, row, strict=True))),
            {} if options is None else options_from_text(options[place, 0]),
        )
        for place, row in enumerate(rows)
    ]


def check_rows(arrays: Mapping[str, np.ndarray], fields: Sequence[ItemField], most: int) -> None:
    """Raise InputError for a request that has more than `most` texts of a field of several, each of which is a row.

    Empty ones have no bytes, so that their bytes do not limit their number.
    """
    for field in fields:
        if field.several and (count := arrays[field.name].size) > most:
            raise InputError(
                f"the request has {count:,} {field.name}, each of which is a row, and the model takes {most} rows at a "
                "time: send fewer, or raise --batch-size."
            )


def check_text_bytes(count: int, most: int) -> None:
    """Raise InputError for a request whose texts and options have `count` bytes, if that is more than `most`."""
    if count > most:
        raise InputError(
            f"the texts and options of the request have {count:,} bytes, and at most {most:,} are taken at a time: "
            "send fewer or shorter ones, or write the repository with a higher --max-text-bytes."
        )


def _bytes_to_tokenize(row: Mapping[ItemField, np.ndarray]) -> int:
    """Return how many bytes of text are tokenized for an item: a text is tokenized anew with each of several others."""
    lengths = {field: sum(map(len, texts)) for field, texts in row.items()}
    times = math.prod(len(texts) for field, texts in row.items() if field.several)
    return sum(length * (1 if field.several else times) for field, length in lengths.items())


def options_from_text(text: bytes) -> dict[str, Any]:
    """Return the options that a JSON text holds; an empty text holds none.

    Raises InputError for text that is not a JSON object, for an object that has a name twice, and for more than 64 KiB.
    """
    if len(text) > MOST_OPTION_BYTES:
        raise InputError(f"{OPTIONS} has {len(text):,} bytes, expected at most {MOST_OPTION_BYTES:,}.")
    try:
        options = document_from_bytes(text_from_bytes(text, OPTIONS).encode() or b"{}", OTHER, unique=True)
    except DocumentError as error:
        raise InputError(f'{OPTIONS} is not JSON ({error}): expected an object, such as {{"top_k": 3}}.') from error
    if not isinstance(options, dict):
        raise InputError(f'{OPTIONS} is a {type(options).__name__}, expected a JSON object, such as {{"top_k": 3}}.')
    return options


def text_from_bytes(value: bytes, name: str) -> str:
    """Decode an element of the string tensor `name`. Raises InputError for bytes that are not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 at byte {error.start} ({error.reason}): send texts as UTF-8.") from error


def _item(values: Mapping[ItemField, np.ndarray]) -> Any:
    texts = {field: [text_from_bytes(value, field.name) for value in row] for field, row in values.items()}
    return item_from_parts({field.name: row if field.several else row[0] for field, row in texts.items()})
