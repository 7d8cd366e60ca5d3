"""A folder takes another's place whole or not at all, on one file system; what a killed process left is put right.

Work happens in `.NAME.PID.partial` beside the destination, and what was there moves to `.NAME.PID.replaced` for the
moment between two renames.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Final

PARTIAL: Final = "partial"
REPLACED: Final = "replaced"


def partial_folder(folder: Path) -> Path:
    """Make the folder beside `folder` in which this process writes what is to take its place.

    Before that, what processes that are no longer alive left half done is undone: a folder that one had moved away
    comes back, what it had not finished goes. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _recover(folder)
    partial = _sibling(folder, PARTIAL)
    partial.mkdir()
    return partial


def replace_folder(folder: Path, partial: Path) -> None:
    """Let `partial` become `folder`; what was there stays if an interrupt comes between. Raises OSError."""
    replaced = _sibling(folder, REPLACED)
    try:
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)  # the new one is there; what is left of the old one goes next time


def _recover(folder: Path) -> None:
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
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)\.{kind}")
    found = ((path, pattern.fullmatch(path.name)) for path in folder.parent.iterdir())
    return [path for path, match in found if match and not _is_alive(int(match[1]))]


def _is_alive(pid: int) -> bool:
    """Whether another process has this number. This one's own is from an earlier life: containers count anew."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
