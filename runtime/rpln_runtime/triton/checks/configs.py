"""Compares a configuration with the one that is written: every field must be equal, or be changed within FIELDS."""

import difflib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from rpln_runtime.triton.checks.fields import FIELDS, Field, fits
from rpln_runtime.triton.checks.limits import Edit
from rpln_runtime.triton.checks.problems import Problem
from rpln_runtime.triton.checks.reading import MESSAGE, Config, FieldPath, config_from_text, shown_path
from rpln_runtime.triton.pbtxt import Message, Word, text_from_message
from rpln_runtime.triton.plan import RepositoryPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A configuration and the one that is written.

    Attributes:
        file: how messages name the file.
        role: the role of its model.
        versions: the versions of its model.
        plan: what the repository is written from.
    """

    file: str
    role: str
    found: Config
    written: Config
    versions: Collection[int]
    plan: RepositoryPlan

    def problems(self) -> Iterator[Problem]:
        """Yield the problem of each field that differs, but not of the fields within a message that does."""
        reported: set[FieldPath] = set()
        for path in self._paths():
            outer = _outer(path)
            if outer in reported or (outer and outer not in self.found.values):
                reported.add(path)
            elif text := self._problem(path):
                reported.add(path)
                yield Problem(self.file, text, self.found.line_of(path))

    def _paths(self) -> list[FieldPath]:
        """Return the fields of both configurations, and those of FIELDS, messages before what they hold."""
        messages = [(), *(path for path, value in self.found.values.items() if value == MESSAGE)]
        allowed = [
            (*message, row.path[-1])
            for message in messages
            for row in self._rows
            if not row.path[-1].startswith("[") and fits(row.path[:-1], message)
        ]
        return list(dict.fromkeys([*self.found.values, *self.written.values, *allowed]))

    @property
    def _rows(self) -> list[Field]:
        return [row for row in FIELDS if self.role in row.roles]

    def _problem(self, path: FieldPath) -> str | None:
        value, written = self.found.values.get(path), self.written.values.get(path, self._first(path))
        row = next((row for row in self._rows if row.matches(path)), None)
        if row is not None:
            edit = Edit(
                path=path, value=value, written=written, found=self.found, plan=self.plan, versions=self.versions
            )
            expected = row.check(edit)
            return expected and f"{self._is(path)}: {expected}"
        if value == written:
            return None
        if written is not None:
            return f"{self._is(path)}" if written == MESSAGE else f"{self._is(path)}: expected {_shown(written)}"
        if value == MESSAGE and any(row.lies_in(path) for row in self._rows):
            return None
        return f"{self._is(path)}, but rpln triton does not write it{self._meant(path)}"

    def _is(self, path: FieldPath) -> str:
        """Return what the configuration holds at `path`, in words."""
        key, _, count = path[-1].partition(", ")
        if path[-1].startswith("[") and count:
            return f"{shown_path((*path[:-1], f'{key}]'))} is there {count.removesuffix(']')} times"
        value = self.found.values.get(path, self.found.defaults.get(path))
        return f"{shown_path(path)} is {'missing' if value is None else 'there' if value == MESSAGE else _shown(value)}"

    def _meant(self, path: FieldPath) -> str:
        """Return what was perhaps meant: a similar name at the same place, in what is written or may be."""
        known = [*self.written.values, *(row.path for row in self._rows)]
        beside = {other[len(path) - 1] for other in known if other[: len(path) - 1] == path[:-1] != other}
        names = {part.strip('["]'): part for part in beside - {path[-1]}}
        close = difflib.get_close_matches(path[-1].strip('["]'), names, n=1, cutoff=0.8)
        return f": did you mean {shown_path((*path[:-1], names[close[0]]))}?" if close else ": take it out"

    def _first(self, path: FieldPath) -> Any:
        """Return what is written in the first instance group where `path` is in another one."""
        return self.written.values.get((path[0], "[0]", *path[2:])) if path[0] == "instance_group" else None


def config_from_message(message: Message) -> Config:
    """Return the configuration that is written for `message`."""
    return config_from_text(text_from_message(message), "what rpln triton writes")


def _outer(path: FieldPath) -> FieldPath:
    """Return the path of the message that holds `path`."""
    return path[:-2] if path[-1].startswith("[") else path[:-1]


def _shown(value: Any) -> str:
    """Return a value as it stands in a configuration, shortened."""
    text = str(value) if isinstance(value, Word) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST: Final = 200
"""The most characters of a value that a message shows."""
