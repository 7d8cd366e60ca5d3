"""Reads report.json: whatever the file holds, the outcome is a Report or an error that says what is wrong with it."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from rpln_export.bundle.report import Report
from rpln_export.bundle.report_file import find_report
from rpln_export.errors import ReportError
from rpln_runtime.documents import DocumentError, read_document, shown
from rpln_runtime.limits import OTHER
from rpln_runtime.tasks import TASKS

AGAIN: Final = "Export the checkpoint again with this version of rpln-export."


def report_from_folder(folder: Path) -> Report:
    """Return the report of the bundle in `folder`.

    Raises ReportError for a folder without one, and for a report.json that was damaged, or written by a version of
    rpln-export that reports other things.
    """
    path = find_report(folder)
    try:
        report: Report = _value(Report, read_document(path, OTHER), "the report")
    except DocumentError as error:
        raise ReportError(f"{path} cannot be read: {error}. {AGAIN}") from error
    except TypeError as error:
        raise ReportError(f"{path} is not a report of this version: {error}. {AGAIN}") from error
    if report.task not in TASKS:
        raise ReportError(f"{path} names the task {shown(report.task)}, which this version does not know. {AGAIN}")
    return report


def _value(hint: Any, value: Any, where: str) -> Any:
    """Return the JSON `value` as the type `hint`. Raises TypeError, which says `where` a value of another type is."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in {Union, types.UnionType}:
        return _one_of(arguments, value, where)
    if dataclasses.is_dataclass(hint):
        return _row(hint, value, where)
    if origin in {tuple, Sequence} and isinstance(value, list):
        return tuple(_value(arguments[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    if origin in {dict, Mapping} and isinstance(value, dict):
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if type(value) is hint or (hint is float and type(value) is int):  # isinstance would accept a bool as an int
        return hint(value)
    raise TypeError(f"{where} is {shown(value)}, expected {getattr(hint, '__name__', hint)}")


def _one_of(hints: Sequence[Any], value: Any, where: str) -> Any:
    """Return `value` as the first of `hints` that it has the type of; for an object, as the class of its fields."""
    rows = [hint for hint in hints if dataclasses.is_dataclass(hint)]
    if isinstance(value, dict) and rows:
        exact = [row for row in rows if {field.name for field in dataclasses.fields(row)} == value.keys()]
        return _row((exact or rows)[0], value, where)
    if value is None and type(None) in hints:
        return None
    return _value(hints[0], value, where)


def _row(row: Any, value: Any, where: str) -> Any:
    """Return `value` as the dataclass `row`. What it holds beside the fields was computed from them."""
    if not isinstance(value, dict):
        raise TypeError(f"{where} is {shown(value)}, expected an object")
    hints = get_type_hints(row)
    names = [field.name for field in dataclasses.fields(row) if field.name in value or not _has_default(field)]
    if missing := [name for name in names if name not in value]:
        raise TypeError(f"{where} lacks {', '.join(missing)}")
    return row(**{name: _value(hints[name], value[name], f"{where}.{name}") for name in names})


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)
