"""What the tokenizer step hands to the answer step: the tokens of each row, and the items that the rows come from.

Shapes: R rows, S tokens of the bucket.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Final

import numpy as np

from rpln_runtime.tokenization import Encoding
from rpln_runtime.triton.request import Asked

TOKENS: Final = "tokens"
ITEMS: Final = "items"

COLUMNS: Final = 7
"""How many numbers describe a token: the fields of an Encoding, where offsets are two numbers."""
_PAST_THE_END: Final = -1


def rows_from_encodings(
    encodings: Sequence[Sequence[Encoding]], asked: Sequence[Asked], length: int
) -> dict[str, np.ndarray]:
    """Return `tokens`, (R, S, 7) int64, and `items`, (R, 1) texts: an item is in the first of its rows."""
    flat = [encoding for rows in encodings for encoding in rows]
    tokens_RS7 = np.full((len(flat), length, COLUMNS), _PAST_THE_END, np.int64)
    for target, encoding in zip(tokens_RS7, flat, strict=True):
        target[: len(encoding)] = np.column_stack([getattr(encoding, field.name) for field in fields(Encoding)])
    starts = np.cumsum([0, *map(len, encodings[:-1])])
    items_R1 = np.full((len(flat), 1), b"", np.object_)
    items_R1[starts, 0] = [one.to_json().encode() for one in asked]
    return {TOKENS: tokens_RS7, ITEMS: items_R1}


def encodings_from_rows(tokens_RS7: np.ndarray) -> list[Encoding]:
    """Return the encodings of the rows of a batch."""
    real_RS = tokens_RS7[..., 0] != _PAST_THE_END
    return [_encoding(row[real]) for row, real in zip(tokens_RS7, real_RS, strict=True)]


def items_from_rows(items_R1: np.ndarray) -> list[tuple[Asked, slice]]:
    """Return each item of a batch, and the places of its rows."""
    starts = [place for place, text in enumerate(items_R1[:, 0]) if text]
    ends = [*starts[1:], len(items_R1)]
    return [(Asked.from_json(items_R1[start, 0]), slice(start, end)) for start, end in zip(starts, ends, strict=True)]


def _encoding(columns_S7: np.ndarray) -> Encoding:
    ids, type_ids, first, end, words, sequences, positions = columns_S7.T
    return Encoding(ids, type_ids, np.stack([first, end], axis=1), words, sequences, positions)
