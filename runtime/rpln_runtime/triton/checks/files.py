"""Compares the files of a model's folder with those that are written: names, kinds, sizes, hashes and texts."""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from stat import S_ISDIR, S_ISREG
from typing import Final

from rpln_runtime.manifest import MANIFEST_NAME, BundleFile, bundle_file_from_path
from rpln_runtime.triton.checks.problems import Problem
from rpln_runtime.triton.contents import Content

_READ_BY_ANYBODY: Final = 0o444
_ENTERED_BY_ANYBODY: Final = 0o111
A_FOLDER: Final = "it is a folder: expected a file"
_MADE_BY_PYTHON: Final = "__pycache__"


def compare_files(
    folder: Path, written: Mapping[str, Content | None], optional: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield where the files in `folder`, a model in a repository, differ from those that are written.

    Args:
        folder: the folder of the model.
        written: the content of each file; None for one that is compared elsewhere.
        optional: files that need not be there.

    Hidden files are ignored, and so is the folder that Python makes where it runs model.py.
    """
    parents = {str(parent) for path in written for parent in PurePosixPath(path).parents}
    missing = {path for path in written if not PurePosixPath(path).name.startswith(".")} - set(optional)
    waiting = ["."]
    while waiting:
        for path in _entries(folder, waiting.pop()):
            file, where = folder / path, f"{folder.name}/{path}"
            missing.discard(path)
            if wrong := what_hinders(file, folder.parent):
                yield Problem(where, wrong)
            elif file.is_dir() and path in parents:
                waiting.append(path)
            elif path not in written:
                yield Problem(where, "rpln triton does not write it: take it out")
            elif file.is_dir():
                yield Problem(where, A_FOLDER)
            elif (content := written[path]) is not None:
                yield from _compare_file(file, content, where)
    for path in sorted(missing):
        yield Problem(f"{folder.name}/{path}", "it is missing")


def what_hinders(path: Path, root: Path) -> str | None:
    """Return why the file or folder `path` in the repository `root` must not or cannot be read; None where it can."""
    try:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            return "it is a link out of the repository: put a copy in its place"
        mode = path.stat().st_mode
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if not mode & (_ENTERED_BY_ANYBODY if S_ISDIR(mode) else _READ_BY_ANYBODY):
        return f"its permissions are {mode & 0o777:04o}, with which nobody may read it"
    if S_ISDIR(mode) and not os.access(path, os.R_OK | os.X_OK):
        return "it cannot be read (Permission denied)"
    return None if S_ISDIR(mode) or S_ISREG(mode) else "it is neither a file nor a folder"


def _entries(folder: Path, inside: str) -> list[str]:
    names = sorted(path.name for path in (folder / inside).iterdir())
    return [str(PurePosixPath(inside, name)) for name in names if not name.startswith(".") and name != _MADE_BY_PYTHON]


def _compare_file(file: Path, content: Content, where: str) -> Iterator[Problem]:
    try:
        problem = (
            _other_copy(file, content, where) if isinstance(content, BundleFile) else _other_bytes(file, content, where)
        )
    except OSError as error:
        problem = Problem(where, f"it cannot be read ({error.strerror})")
    if problem:
        yield problem


def _other_copy(file: Path, expected: BundleFile, where: str) -> Problem | None:
    if (size := file.stat().st_size) != expected.size:
        return Problem(where, f"it has {size:,} bytes, {MANIFEST_NAME} says {expected.size:,}: a cut or altered copy")
    same = bundle_file_from_path(file.parent, file).sha256 == expected.sha256
    return None if same else Problem(where, f"it is not the file that {MANIFEST_NAME} describes (SHA-256)")


def _other_bytes(file: Path, expected: bytes, where: str) -> Problem | None:
    with file.open("rb") as stream:
        found = stream.read(len(expected) + 1)
    if found == expected:
        return None
    if b"\0" in expected:
        return Problem(where, f"it differs from the {len(expected):,} bytes that rpln triton writes")
    lines, wanted = found.splitlines(keepends=True), expected.splitlines(keepends=True)
    differing = (place for place, (one, other) in enumerate(zip(lines, wanted, strict=False)) if one != other)
    place = next(differing, min(len(lines), len(wanted)))
    line = repr(wanted[place].decode()) if place < len(wanted) else "no more"
    return Problem(where, f"it differs from what rpln triton writes, which has {line[:120]} here", place + 1)
