"""What a run writes: one line of JSON for each fact, on disk at once, so that a run that is cut keeps what it has."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = "gpu.jsonl"
"""The file of the facts in the folder of results."""

Fact = dict[str, Any]
"""One fact. `kind` says which one: machine, step, answer, speed, tests or left_out."""


@dataclass(frozen=True, slots=True)
class Results:
    """The facts in a folder."""

    folder: Path

    def begin(self) -> None:
        """Drop the facts of an earlier run."""
        (self.folder / FILE).write_text("", encoding="utf-8")

    def add(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Write a fact, print it, and return when it is on disk."""
        line = json.dumps({"kind": kind, **facts})
        print(line, flush=True)
        with (self.folder / FILE).open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")
            stream.flush()
            os.fsync(stream.fileno())

    def of_kind(self, kind: str) -> Iterator[Fact]:
        """Yield the facts of a kind. A last line that was cut is left out."""
        for line in (self.folder / FILE).read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n") and (fact := json.loads(line))["kind"] == kind:
                yield fact
