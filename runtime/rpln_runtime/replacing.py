"""Folders that are replaced as a whole, or not at all. Leftovers of processes that were killed are cleaned up.

A process writes into `.NAME.PID.partial` beside the destination, on the same file system. When it is done, it renames
what was at the destination to `.NAME.PID.replaced`, and its own folder to the destination, and removes the old one.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Final

PARTIAL: Final = "partial"
"""The ending of a folder that a process is writing."""
REPLACED: Final = "replaced"
"""The ending of a folder that has been replaced and is about to be removed."""


def partial_folder(folder: Path) -> Path:
    """Make a folder beside `folder`, and return it: this process writes into it what is to replace `folder`.

    First, the leftovers of processes that no longer run are cleaned up: a folder that one had moved away is moved back,
    and a folder that one had not finished is removed. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _recover(folder)
    partial = _sibling(folder, PARTIAL)
    partial.mkdir()
    return partial


def replace_folder(folder: Path, partial: Path) -> None:
    """Rename `partial` to `folder`, and remove what was there.

    If that is interrupted, what was there stays. Raises OSError.
    """
    replaced = _sibling(folder, REPLACED)
    try:
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)  # what cannot be removed now is removed next time


def _recover(folder: Path) -> None:
    """Move back or remove what processes that no longer run have left beside `folder`."""
    for path in _leftovers(folder, REPLACED):
        if folder.exists():
            shutil.rmtree(path)
        else:
            path.rename(folder)
    for path in _leftovers(folder, PARTIAL):
        shutil.rmtree(path)


def _sibling(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.{kind}")


def _leftovers(folder: Path, kind: str) -> list[Path]:
    """Return the folders of a `kind` that processes which no longer run have left beside `folder`."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)\.{kind}")
    found = ((path, pattern.fullmatch(path.name)) for path in folder.parent.iterdir())
    return [path for path, match in found if match and not _is_alive(int(match[1]))]


def _is_alive(pid: int) -> bool:
    """Return whether another process runs under this number.

    A leftover with the number of this process is from an earlier one: in a container, the numbers begin anew.
    """
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
