"""Answers as the tensors of a response, one tensor for each column.

A request of one item gets its answer without padding. Where the answers to several items have different lengths, the
shorter ones are filled up with "", -1 and 0, and the tensor `count` says how many rows of each item are real.

Shapes: B items of a request, N rows of the longest answer, H hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

COUNT: Final = "count"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A tensor of the response, of shape (B, N), or (B, N, H) where `wide`.

    `rows` takes an answer of the pipeline and returns its N values for this column.
    """

    name: str
    data_type: str
    rows: Callable[[Any], Sequence[Any]]
    wide: bool = False


_DTYPES: Final[dict[str, tuple[Any, Any]]] = {
    "TYPE_STRING": (np.object_, b""),
    "TYPE_INT64": (np.int64, -1),
    "TYPE_FP32": (np.float32, 0),
}
"""The dtype of a column's array and the value that fills it up, by Triton's name of the type."""


def arrays_from_answers(answers: Sequence[Any], columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """Return the tensors of a response, with `count` (B, 1) int64: how many rows the first column has for each item."""
    arrays = {column.name: _array([column.rows(answer) for answer in answers], column) for column in columns}
    counts = [[len(columns[0].rows(answer))] for answer in answers]
    return {**arrays, COUNT: np.array(counts, np.int64)}


def _array(items: Sequence[Sequence[Any]], column: Column) -> np.ndarray:
    dtype, fill = _DTYPES[column.data_type]
    inner = np.shape(items[0])[1:] if column.wide else ()
    array = np.full((len(items), max(map(len, items)), *inner), fill, dtype)
    for target, rows in zip(array, items, strict=True):
        if len(rows):
            target[: len(rows)] = [row.encode() for row in rows] if dtype is np.object_ else rows
    return array
