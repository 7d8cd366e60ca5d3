"""Checks of options. The message of every refusal names the option, its value, and what was expected."""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from rpln_runtime.errors import InputError

LARGEST: Final = 2**63 - 1
"""The largest integer of 64 bits, which is what C++ and the graphs compute in."""


def plain(value: Any) -> Any:
    """Return `value` with numpy's scalars and arrays as Python's own values and lists, in lists and mappings, too."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def path_from_value(name: str, value: object) -> Path:
    """Return the path that the argument `name` has as its `value`. Raises InputError for a value that is no path."""
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(path, str):
        raise InputError(f"{name} is {shown_kind(path)}, expected a path as a str or a pathlib.Path.")
    if "\0" in path:
        raise InputError(f"{name} is {path!r}, expected a path, which holds no NUL character.")
    return Path(path)


def shown_kind(value: object) -> str:
    """Return what `value` is, for a message: None, NaN, bytes with the way to a text, or its type."""
    if value is None:
        return "None"
    if isinstance(value, float) and math.isnan(value):
        return "nan (a float, which stands for a missing value)"
    if isinstance(value, bytes | bytearray):
        return f"{type(value).__name__} (a text is what their .decode() returns)"
    return f"of type {type(value).__name__}"


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise InputError unless `value`, the value of the option `name`, is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}.")


def check_boolean(name: str, value: object) -> None:
    """Raise InputError unless `value`, the value of the option `name`, is True or False.

    Python would take any text for True, "false" too.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}, expected True or False.")


def check_texts(name: str, value: object) -> None:
    """Raise InputError unless `value`, the value of the option `name`, is a list, a tuple or a set of texts."""
    listed = value if isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping) else (None,)
    if not all(isinstance(text, str) for text in listed):
        raise InputError(f"{name} is {value!r}, expected a list of texts.")


def check_integer(name: str, value: object, *, minimum: int, maximum: int | None = None) -> None:
    """Raise InputError unless `value`, the value of the option `name`, is an integer from `minimum` to `maximum`.

    Without a `maximum`, the integers from `minimum` to LARGEST are accepted.
    """
    most = LARGEST if maximum is None else maximum
    if type(value) is int and minimum <= value <= most:
        return
    too_large = type(value) is int and value > most
    upper = f"to {most}" if maximum is not None or too_large else "or more"
    raise InputError(f"{name} is {value!r}, expected an integer, {minimum} {upper}.")
