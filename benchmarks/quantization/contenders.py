"""Contender: one row for each way to run a network; what is not installed here is left out, and named."""

import importlib.util
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

REFERENCE: Final = "ONNX Runtime fp32"
"""The contender that all others are compared with."""
COMPILERS: Final = ("c++", "g++", "clang++")

Setup = TypeVar("Setup")
Opened = TypeVar("Opened")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender(Generic[Setup, Opened]):
    """A way to run a network.

    Attributes:
        name: what the tables call it.
        needs: the packages that it needs beside those of this project.
        compiles: whether it needs a C++ compiler.
        make: makes its files from what all contenders are made from, and opens them.
    """

    name: str
    make: Callable[[Setup], Opened]
    needs: tuple[str, ...] = ()
    compiles: bool = False

    @property
    def missing(self) -> list[str]:
        """What it needs, and is not installed."""
        packages = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return packages + ["a C++ compiler"] * (self.compiles and not any(map(shutil.which, COMPILERS)))


def open_all(rows: Iterable[Contender[Setup, Opened]], setup: Setup) -> dict[str, Opened]:
    """Return what is opened for each contender, by name. Those that lack a package are left out."""
    opened = {}
    for row in rows:
        if row.missing:
            print(left_out(row), flush=True)
        else:
            print(f"making {row.name}", flush=True)
            opened[row.name] = row.make(setup)
    return opened


def left_out(row: Contender[Setup, Opened]) -> str:
    """Return the sentence that names what a contender lacks."""
    return f"Left out: {row.name}. Not installed: {', '.join(row.missing)}."


def megabytes(path: Path) -> float:
    """Return the size of a file or a folder, and of the weights that OpenVINO writes beside a file, in MB."""
    files = path.rglob("*") if path.is_dir() else (path, path.with_suffix(".bin"))
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6
