"""Reads JSON within limits: whatever the bytes are, the outcome is a value or a DocumentError that says why not.

What is refused is what one of the two runtimes could not read: nlohmann-json in C++ takes no NaN, no byte order mark
and no half of a surrogate pair, and Python has no limit to the size of integers.
"""

import codecs
import json
import math
import reprlib
from pathlib import Path
from typing import Any, Final, NoReturn

from rpln_runtime.limits import DOCUMENTS

_BYTE_ORDER_MARKS: Final = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SHORT: Final = reprlib.Repr()
_SHORT.maxlevel = 1
_SHORT.maxlist = _SHORT.maxdict = 40
_SHORT.maxstring = _SHORT.maxlong = 200


class DocumentError(ValueError):
    """Raised for bytes that are no JSON within the limits. The message says what is wrong, and not in which file."""


def read_document(path: Path, kind: str) -> Any:
    """Return the JSON value in the file `path`, within the limits of `kind`, a row of `rpln_runtime.limits.DOCUMENTS`.

    Raises DocumentError for a file that cannot be read or holds something else.
    """
    most = DOCUMENTS[kind].size
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise DocumentError(str(error)) from error
    return document_from_bytes(content, kind)


def document_from_bytes(content: bytes, kind: str, *, unique: bool = False) -> Any:
    """Return the JSON value that `content` is, within the limits of `kind`. Raises DocumentError for anything else.

    With `unique`, an object that has a name twice is refused; otherwise the last value of a name counts.
    """
    limits = DOCUMENTS[kind]
    if len(content) > limits.size:
        raise DocumentError(f"it has more than {limits.size:,} bytes")
    if content.startswith(_BYTE_ORDER_MARKS):
        raise DocumentError("it begins with a byte order mark, expected UTF-8 without one")
    try:
        value = (_UNIQUE_DECODER if unique else _DECODER).decode(content.decode())
    except RecursionError as error:
        raise DocumentError(_too_deep(limits.depth)) from error
    except ValueError as error:
        raise DocumentError(str(error)) from error
    _check_parts(value, limits.depth, halves=b"\\ud" in content.lower())
    return value


def shown(value: Any) -> str:
    """Return a JSON value for a message: what is long or lies inside other values is shortened."""
    return _SHORT.repr(value)


def _check_parts(value: Any, most_depth: int, *, halves: bool) -> None:
    """Raise DocumentError for lists and objects too deep inside each other and, with `halves`, for texts of no UTF-8.

    It goes level by level: a function that calls itself would fail where the interpreter's stack ends.
    """
    level, depth = [value], 0
    while level:
        if halves:
            for item in level:
                _check_texts(item)
        containers = [item for item in level if isinstance(item, dict | list)]
        if containers and depth == most_depth:
            raise DocumentError(_too_deep(most_depth))
        level = [part for item in containers for part in (item.values() if isinstance(item, dict) else item)]
        depth += 1


def _check_texts(item: Any) -> None:
    """Raise DocumentError where a text, or a key of an object, holds half of a surrogate pair."""
    for text in item if isinstance(item, dict) else (item,):
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DocumentError(f"the text {text[:40]!r} holds half of a surrogate pair") from error


def _too_deep(most_depth: int) -> str:
    return f"it has more than {most_depth} lists and objects inside each other"


def _refuse_constant(text: str) -> NoReturn:
    raise DocumentError(f"{text} is no number of JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise DocumentError(f"the number {text[:40]} is too large")
    return value


def _finite_integer(text: str) -> int:
    _finite_float(text)
    return int(text)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise DocumentError(f"the name {name[:40]!r} is there twice")
        found[name] = value
    return found


_DECODER: Final = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite_float, parse_int=_finite_integer
)
_UNIQUE_DECODER: Final = json.JSONDecoder(
    parse_constant=_refuse_constant,
    parse_float=_finite_float,
    parse_int=_finite_integer,
    object_pairs_hook=_unique_names,
)
