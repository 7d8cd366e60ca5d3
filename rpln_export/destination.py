"""A bundle appears at its destination whole or not at all; an older bundle stays until the new one is proven.

Work happens in `.NAME.PID.partial` beside the destination, so that publishing is a rename on one file system. A killed
process leaves such a folder behind; the next export to the same destination removes it.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rpln_export.errors import DestinationError
from rpln_runtime.manifest import MANIFEST_NAME

PARTIAL: Final = "partial"
REPLACED: Final = "replaced"

REFUSALS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTEMPTY}
)
"""What a file system says when it takes no bundle; other errors are bugs. ENOTEMPTY: another export was first."""


def check_destination(folder: Path, *, needed: int = 0) -> None:
    """Refuse a destination that could not be published to; `needed` is the space in bytes that the bundle takes.

    Raises DestinationError.
    """
    if folder.resolve() == Path.cwd():
        raise DestinationError(f"{folder} is the folder you are in, which cannot be replaced. Choose another with -o.")
    if folder.exists() and not (folder / MANIFEST_NAME).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DestinationError(
            f"{folder} exists and is not a bundle, so it is not replaced. Choose another folder with -o, or remove it."
        )
    if strangers := _not_of_the_bundle(folder):
        raise DestinationError(
            f"{folder} holds what its bundle does not name ({', '.join(strangers[:3])}), so it is not replaced. Move "
            "that elsewhere, or choose another folder with -o."
        )
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DestinationError(f"{parent} cannot be written by this user. Choose another folder with -o.")
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise DestinationError(
            f"{parent} has {free / 1e6:,.0f} MB free, the bundle needs about {needed / 1e6:,.0f} MB. "
            "Make room or choose another folder with -o."
        )


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """Yield a folder to build in; it becomes `folder` when the block ends without an exception, else it is removed.

    Raises DestinationError for what the file system refuses, a full disk among it.
    """
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _recover(folder)
        partial = _sibling(folder, PARTIAL)
        partial.mkdir()
    except OSError as error:
        raise DestinationError(f"{folder} cannot be written: {error}. Choose another folder with -o.") from error
    try:
        yield partial
        check_destination(folder)
        _replace(folder, partial)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise DestinationError(
            f"writing the bundle failed: {error}. {folder} was left as it was; make room, or choose another with -o."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(folder: Path, partial: Path) -> None:
    replaced = _sibling(folder, REPLACED)
    try:
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    finally:  # an interrupt, too, may come between the two
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)  # the bundle is published; what is left of the old one goes next time


def _recover(folder: Path) -> None:
    """Undo what processes that are no longer alive left half done: put a replaced bundle back, drop partial ones."""
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


def _not_of_the_bundle(folder: Path) -> list[str]:
    """The files in `folder` that the manifest there does not name; none where it names no files."""
    try:
        known = {MANIFEST_NAME, *(file["path"] for file in json.loads((folder / MANIFEST_NAME).read_bytes())["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    files = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [path for path in files if path not in known]
