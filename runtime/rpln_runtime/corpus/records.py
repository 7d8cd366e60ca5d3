"""Answers lines of JSON with lines of JSON.

A line is an object with the fields of the task, for most tasks {"text": ...}. Its other fields are copied to the
output, beside "answer", or beside "error" where there is no answer.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from rpln_runtime.batching import OnRows
from rpln_runtime.documents import DocumentError, document_from_bytes
from rpln_runtime.errors import InputError
from rpln_runtime.limits import MOST_LINE_BYTES, OTHER
from rpln_runtime.options import shown_kind
from rpln_runtime.postprocess.base import ItemField, item_from_parts

AnswerItems = Callable[..., Sequence[Any]]
"""A function that takes a list of items and returns an answer for each. It raises InputError if one of them is wrong.

Where somebody wants to know how far it is, it is given `on_rows`, as `rpln_runtime.Pipeline` is.
"""

ANSWER: Final = "answer"
ERROR: Final = "error"
_LINE_ENDS: Final = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""Characters that JSON allows in texts, but that some readers take for the end of a line, such as str.splitlines."""


@dataclass(frozen=True, slots=True)
class Record:
    """A line of the output, with its newline. `error` is the reason where it holds no answer."""

    line: bytes
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    """What a line asks: its item, or the InputError where it has none, and its other fields, which are kept."""

    item: Any
    kept: Mapping[str, Any]


def answer_lines(
    lines: Sequence[bytes], answer: AnswerItems, fields: Sequence[ItemField], on_rows: OnRows | None = None
) -> Iterator[Record]:
    """Yield a record for each of `lines`, once all are answered. `fields` are the parts of an item of the task.

    `on_rows` is told how far the lines are while they are answered together: not when they are tried again in parts.
    """
    requests = [_request_from_line(line, fields) for line in lines]
    told = answer if on_rows is None else partial(answer, on_rows=on_rows)
    answers = iter(_answer_each(told, answer, [one.item for one in requests if not isinstance(one.item, InputError)]))
    for request in requests:
        yield _record(request.kept, request.item if isinstance(request.item, InputError) else next(answers))


def _answer_each(first: AnswerItems, again: AnswerItems, items: list[Any]) -> list[Any]:
    """Return for each item its answer or its InputError. Where `first` fails, `again` tries each half of the items."""
    try:
        return list(first(items)) if items else []
    except InputError as error:
        if len(items) == 1:
            return [error]
    half = len(items) // 2
    return [*_answer_each(again, again, items[:half]), *_answer_each(again, again, items[half:])]


def _request_from_line(line: bytes, fields: Sequence[ItemField]) -> _Request:
    kept: dict[str, Any] = {}
    try:
        record = _object_from_line(line)
        kept = _kept(record, [field.name for field in fields])
        return _Request(_item(record, fields), kept)
    except InputError as error:
        return _Request(error, kept)


def _item(record: Mapping[str, Any], fields: Sequence[ItemField]) -> Any:
    parts = {field.name: record[field.name] for field in fields if field.name in record}
    for field in fields:
        if field.name not in parts and not field.optional:
            raise InputError(f"it has no field {field.name!r}")
    for field in fields:
        if field.several and not isinstance(parts.get(field.name, []), list):
            raise InputError(f"its {field.name!r} is {shown_kind(parts[field.name])}, expected a list of texts")
    for name, part in parts.items():
        _check_text(name, part)
    return item_from_parts(parts)


def _object_from_line(line: bytes) -> dict[str, Any]:
    if len(line) > MOST_LINE_BYTES and not line.endswith(b"\n"):
        raise InputError(f"it has more than {MOST_LINE_BYTES:,} bytes")
    try:
        record = document_from_bytes(line, OTHER)
    except DocumentError as error:
        raise InputError(f"it is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError("it is not a JSON object")
    return record


def _check_text(name: str, part: Any) -> None:
    """Raise InputError unless a part is a text, or a list of texts. Whether it may be empty is the task's matter."""
    for text in part if isinstance(part, list) else [part]:
        if not isinstance(text, str):
            raise InputError(f"its {name!r} is {shown_kind(text)}, expected a text")


def _kept(record: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    for name in (ANSWER, ERROR):
        if name in record:
            raise InputError(f"it has a field {name!r}, which the output needs for itself: rename it")
    kept = {name: value for name, value in record.items() if name not in fields}
    _json_line(kept)
    return kept


def _record(kept: Mapping[str, Any], answer: Any) -> Record:
    try:
        if isinstance(answer, InputError):
            return Record(_json_line({**kept, ERROR: str(answer)}), str(answer))
        return Record(_json_line({**kept, ANSWER: answer}))
    except InputError as error:
        return _record(kept, error)


def _json_line(record: Mapping[str, Any]) -> bytes:
    """Write a line. Raises InputError for values that JSON cannot hold: infinities, and halves of characters."""
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, default=lambda array: array.tolist())
        return f"{text.translate(_LINE_ENDS)}\n".encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"it cannot be written as JSON ({error})") from error
