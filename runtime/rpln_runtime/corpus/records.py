"""Lines of JSON in, lines of JSON out: what is asked of a line, and what is answered.

A line is an object with the task's fields, {"text": ...} for most; its other fields go into the output as they are,
beside "answer", or beside "error" where there is none.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rpln_runtime.corpus.reading import MOST_LINE_BYTES
from rpln_runtime.errors import InputError
from rpln_runtime.postprocess.base import ItemField, item_from_parts

AnswerItems = Callable[[list[Any]], Sequence[Any]]
"""A list of items -> an answer for each. Raises InputError when any of them cannot be taken."""

ANSWER: Final = "answer"
ERROR: Final = "error"
_LINE_ENDS: Final = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""JSON lets them stand; some readers of lines take them for the end of one, as str.splitlines does."""


@dataclass(frozen=True, slots=True)
class Record:
    """A line of the output, with its newline, and why it holds no answer where it holds none."""

    line: bytes
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    """What a line asks for, or why it cannot be asked, and the fields of it that are kept."""

    item: Any
    kept: Mapping[str, Any]


def answer_lines(lines: Sequence[bytes], answer: AnswerItems, fields: Sequence[ItemField]) -> Iterator[Record]:
    """Yield a record for each of `lines`, once all are answered; `fields` are those of the task's items."""
    requests = [_request_from_line(line, fields) for line in lines]
    answers = iter(_answer_each(answer, [one.item for one in requests if not isinstance(one.item, InputError)]))
    for request in requests:
        yield _record(request.kept, request.item if isinstance(request.item, InputError) else next(answers))


def _answer_each(answer: AnswerItems, items: list[Any]) -> list[Any]:
    """Return for each item its answer or its InputError: a call that fails is made again for either half."""
    try:
        return list(answer(items)) if items else []
    except InputError as error:
        if len(items) == 1:
            return [error]
    half = len(items) // 2
    return [*_answer_each(answer, items[:half]), *_answer_each(answer, items[half:])]


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
    for name, part in parts.items():
        _check_text(name, part)
    return item_from_parts(parts)


def _object_from_line(line: bytes) -> dict[str, Any]:
    if len(line) > MOST_LINE_BYTES and not line.endswith(b"\n"):
        raise InputError(f"it has more than {MOST_LINE_BYTES:,} bytes")
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError("it is no JSON object")
    return record


def _check_text(name: str, part: Any) -> None:
    """Refuse what holds no text; a part that is a list holds several."""
    for text in part if isinstance(part, list) else [part]:
        if not isinstance(text, str):
            raise InputError(f"its {name!r} is a {type(text).__name__}, expected a text")
        if not text.strip():
            raise InputError(f"its {name!r} is empty")


def _kept(record: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    for name in (ANSWER, ERROR):
        if name in record:
            raise InputError(f"it has a field {name!r}, where the output goes: rename it")
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
    """Raise InputError for numbers and texts that JSON has no room for: infinities, and halves of characters."""
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, default=lambda array: array.tolist())
        return f"{text.translate(_LINE_ENDS)}\n".encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"it cannot be written as JSON ({error})") from error
