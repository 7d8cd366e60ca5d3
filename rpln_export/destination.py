"""Publishing: a bundle appears at its destination whole or not at all, and an older bundle stays until then.

A process that is killed leaves a hidden folder behind, which the next export to the same destination removes.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rpln_export.errors import DestinationError
from rpln_runtime.manifest import MANIFEST_NAME
from rpln_runtime.replacing import partial_folder, replace_folder

REFUSALS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTEMPTY}
)
"""The errors by which a file system refuses a bundle; other errors are bugs.

ENOTEMPTY means that another export was published first.
"""


def check_destination(folder: Path, *, needed: int = 0) -> None:
    """Refuse a destination that a bundle of `needed` bytes cannot be published to.

    Raises DestinationError.
    """
    if folder.resolve() == Path.cwd():
        raise DestinationError(
            f"{folder} is the folder you are in, which cannot be replaced. Choose another folder with -o."
        )
    if folder.exists() and not (folder / MANIFEST_NAME).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DestinationError(
            f"{folder} exists and is not a bundle, so it is not replaced. Choose another folder with -o, or remove it."
        )
    if strangers := _not_of_the_bundle(folder):
        raise DestinationError(
            f"{folder} holds files that its manifest does not name ({', '.join(strangers[:3])}), so it is not "
            "replaced. Move them elsewhere, or choose another folder with -o."
        )
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DestinationError(f"{parent} cannot be written by this user. Choose another folder with -o.")
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise DestinationError(
            f"{parent} has {free / 1e6:,.0f} MB free, but the bundle needs about {needed / 1e6:,.0f} MB. "
            "Make room or choose another folder with -o."
        )


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """Yield a folder to build a bundle in. It becomes `folder` when the block ends; after an exception it is removed.

    Raises DestinationError for what the file system refuses, a full disk among it.
    """
    folder = folder.resolve()
    try:
        partial = partial_folder(folder)
    except OSError as error:
        raise DestinationError(f"{folder} cannot be written: {error}. Choose another folder with -o.") from error
    try:
        yield partial
        check_destination(folder)
        replace_folder(folder, partial)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise DestinationError(
            f"writing the bundle failed: {error}. {folder} was left as it was; make room, or choose another with -o."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _not_of_the_bundle(folder: Path) -> list[str]:
    """Return the files in `folder` that the manifest there does not name; none where it names no files."""
    try:
        known = {MANIFEST_NAME, *(file["path"] for file in json.loads((folder / MANIFEST_NAME).read_bytes())["files"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    files = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [path for path in files if path not in known]
