"""The options of a request: their names, their types and their amounts are checked before anything runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints

from rpln_runtime.documents import shown
from rpln_runtime.errors import InputError
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.postprocess.base import Postprocess
from rpln_runtime.request_limits import MOST_IN_ANSWERS, MOST_IN_GENERATION, check_request_options
from rpln_runtime.triton.request import MOST_OPTION_BYTES

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_WORDS: Final[Mapping[Any, tuple[str, str]]] = {
    NoneType: ("null", "nulls"),
    bool: ("true or false", "booleans"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    **dict.fromkeys((Sequence, tuple, frozenset), ("a list of", "lists of")),
}
"""What messages call a type that an option may have, and several values of it."""


def check_amounts(row: type, options: Mapping[str, Any]) -> None:
    """Raise InputError for `options` of the class `row` that are too large, or ask for too much work."""
    if (size := bytes_of_options(options)) > MOST_OPTION_BYTES:
        raise InputError(f"the options have {size:,} bytes, expected at most {MOST_OPTION_BYTES:,}.")
    check_request_options(options, MOST_IN_GENERATION if row is GenerationOptions else MOST_IN_ANSWERS)


def bytes_of_options(options: Mapping[str, Any]) -> int:
    """Return how many bytes `options` have as JSON; without any, 0."""
    return len(json.dumps(options, ensure_ascii=False).encode()) if options else 0


def typed_options(row: type, options: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return `options` of JSON as values of the fields of `row`, a dataclass: a list stands for any sequence or set.

    Raises InputError for an option that `row` does not have, and for a value of another type than its field.
    """
    known = _adapters(row)
    return {name: _typed(name, value, known, task) for name, value in options.items()}


def _typed(name: str, value: Any, known: Mapping[str, "tuple[TypeAdapter[Any], str]"], task: str) -> Any:
    if name not in known:
        raise InputError(f"unknown option {shown(name)} for {task}: expected one of {', '.join(known)}.")
    adapter, expected = known[name]
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValueError as error:
        raise InputError(f"{name} is {shown(value)}, expected {expected}.") from error


@cache
def _adapters(row: type) -> "dict[str, tuple[TypeAdapter[Any], str]]":
    """Return what reads the value of each option of `row`, and its type in words."""
    from pydantic import TypeAdapter

    inherited = {field.name for field in fields(Postprocess)}
    hints = {name: hint for name, hint in get_type_hints(row).items() if name not in inherited}
    names = [field.name for field in fields(row) if field.name in hints]
    return {name: (TypeAdapter(hints[name]), in_words(hints[name])) for name in names}


def in_words(hint: Any, *, several: bool = False) -> str:
    """Return what a message says that a value of the type `hint`, or `several` of them, would be."""
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in _WORDS:
        return " ".join([_WORDS[origin][several], *(in_words(part, several=True) for part in parts[:1])])
    assert parts, f"{hint} has no row in the table of words"
    return " or ".join(in_words(part, several=several) for part in parts)
