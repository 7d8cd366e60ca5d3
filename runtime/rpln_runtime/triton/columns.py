"""COLUMNS: answers as tensors, by post-processing. A request of one item gets them without padding.

Where several items of a request have answers of different lengths, shorter ones are filled up with "", -1 and 0;
`count` says how many rows are real.

Shapes: B items of a request, N rows of the longest answer, H hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rpln_runtime.manifest import Manifest
from rpln_runtime.tasks import TASKS

COUNT: Final = "count"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A tensor of the response: (B, N), or (B, N, H) where `wide`. `rows` takes what it holds from an answer."""

    name: str
    data_type: str
    rows: Callable[[Any], Sequence[Any]]
    wide: bool = False


_DTYPES: Final[dict[str, tuple[Any, Any]]] = {
    "TYPE_STRING": (np.object_, b""),
    "TYPE_INT64": (np.int64, -1),
    "TYPE_FP32": (np.float32, 0),
}


def _listed(answer: Any) -> list[dict[str, Any]]:
    """One answer, a list of them, or a list of such lists, in one list."""
    if isinstance(answer, dict):
        return [answer]
    return [one for part in answer for one in _listed(part)]


def _values(*keys: str) -> Callable[[Any], list[Any]]:
    """What stands in each part of an answer under the first of `keys` that it has."""
    return lambda answer: [next(part[key] for key in keys if key in part) for part in _listed(answer)]


def _masks(answer: list[Any]) -> list[int]:
    """For each filling the place of its mask among those of the text."""
    masks = answer if answer and isinstance(answer[0], list) else [answer]
    return [place for place, fillings in enumerate(masks) for _ in fillings]


_SCORE: Final = Column(name="score", data_type="TYPE_FP32", rows=_values("score"))
_SPAN: Final = tuple(Column(name=name, data_type="TYPE_INT64", rows=_values(name)) for name in ("start", "end"))

COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "feature_extraction": (
        Column(
            name="features", data_type="TYPE_FP32", rows=lambda answer: answer.reshape(-1, answer.shape[-1]), wide=True
        ),
    ),
    "fill_mask": (
        Column(name="token_str", data_type="TYPE_STRING", rows=_values("token_str")),
        _SCORE,
        Column(name="token", data_type="TYPE_INT64", rows=_values("token")),
        Column(name="sequence", data_type="TYPE_STRING", rows=_values("sequence")),
        Column(name="mask", data_type="TYPE_INT64", rows=_masks),
    ),
    "multiple_choice": (
        Column(name="answer", data_type="TYPE_STRING", rows=_values("answer")),
        _SCORE,
        Column(name="index", data_type="TYPE_INT64", rows=_values("index")),
        Column(name="scores", data_type="TYPE_FP32", rows=lambda answer: answer["scores"]),
    ),
    "question_answering": (Column(name="answer", data_type="TYPE_STRING", rows=_values("answer")), _SCORE, *_SPAN),
    "text_classification": (Column(name="label", data_type="TYPE_STRING", rows=_values("label")), _SCORE),
    "token_classification": (
        Column(name="label", data_type="TYPE_STRING", rows=_values("entity", "entity_group")),
        _SCORE,
        *_SPAN,
        Column(name="word", data_type="TYPE_STRING", rows=_values("word")),
    ),
}


def columns_of(manifest: Manifest) -> tuple[Column, ...]:
    """The columns of a bundle whose task has a post-processing."""
    return COLUMNS[str(TASKS[manifest.task].postprocess)]


def arrays_from_answers(answers: Sequence[Any], columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """The tensors of a response, `count` (B, 1) int64 among them: the rows of the first column."""
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
