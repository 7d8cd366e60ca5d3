"""Publishing: a bundle appears at its destination whole or not at all, and an older bundle stays until then.

Whatever an export writes lies in a partial folder beside the destination until then. A process that is killed leaves
that behind, and the next export to the same destination removes it.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from rpln_export.errors import DestinationError
from rpln_graphs.temporary import temporary_files_in
from rpln_runtime.documents import DocumentError, read_document
from rpln_runtime.limits import MANIFEST
from rpln_runtime.manifest import MANIFEST_NAME, UNFINISHED_MANIFEST
from rpln_runtime.replacing import Partial, contents, is_partial, partial_folder, place_of

REFUSALS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG}
)
"""The errors by which a file system refuses to write a bundle; other errors while it is made are bugs."""


def check_destination(folder: Path, *, needed: int = 0) -> None:
    """Refuse a destination that no bundle can be published to, or that an export of `needed` bytes has no room at.

    Leftovers of killed exports to it are cleaned up before. Raises DestinationError.
    """
    check_writable(folder)
    _check_contents(folder)
    place = _existing_place(folder)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DestinationError(
            f"{place} has {free / 1e6:,.1f} MB free, but the export needs about {needed / 1e6:,.1f} MB. "
            "Make room or choose another folder with -o."
        )


def check_writable(path: Path) -> None:
    """Refuse a file or folder that cannot be made or replaced, by making a partial folder for it and removing it again.

    Raises DestinationError.
    """
    try:
        if path.resolve() == Path.cwd():
            raise DestinationError(
                f"{path} is the folder you are in, which cannot be replaced. Choose another folder with -o."
            )
        place = _existing_place(path)
        if not os.access(place, os.W_OK | os.X_OK):
            raise DestinationError(f"{place} cannot be written by this user. Choose another folder with -o.")
        with partial_folder(path):
            pass
    except (OSError, RuntimeError) as error:  # a RuntimeError is resolve's word for links that lead to themselves
        raise _not_writable(path, error) from error


@contextmanager
def published(folder: Path, *, mark: str = MANIFEST_NAME) -> Iterator[Path]:
    """Yield a folder to build a bundle in. It becomes `folder` when the block ends; after an exception it is removed.

    Temporary files of the block lie beside it. `mark` is the file that a reader of the folder looks for. Raises
    DestinationError for what the file system refuses, a full disk among it.
    """
    folder = folder.resolve()
    with _partial(folder) as partial:
        try:
            with temporary_files_in(partial.temporary):
                yield partial.new
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            raise DestinationError(
                f"writing {folder} failed: {error}. {folder} was left as it was; make room, or choose another with -o."
            ) from error
        try:
            _check_contents(folder)
            partial.publish(mark=mark)
        except OSError as error:
            raise DestinationError(_not_published(partial, error)) from error


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield a folder beside the destination `path`, for files that are removed when the block ends.

    The next command that writes to `path` removes them where this process is killed. Raises DestinationError.
    """
    with _partial(path) as partial:
        yield partial.temporary


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Yield a place for a file that is to become `path`, with files beside it where it has some; all are moved there.

    Temporary files of the block lie beside it. After an exception, none of them is there. Raises DestinationError.
    """
    with _partial(path) as partial:
        try:
            with temporary_files_in(partial.temporary):
                yield partial.new / path.name
            # The files that this one reads come before it.
            _move_files(sorted(partial.new.iterdir(), key=lambda written: written.name == path.name), path.parent)
        except OSError as error:
            raise _not_writable(path, error) from error


def _move_files(files: Sequence[Path], folder: Path) -> None:
    """Move all files to `folder`, or none of them."""
    try:
        for file in files:
            file.rename(folder / file.name)
    except BaseException:
        for file in files:
            if not file.exists():  # it was moved
                (folder / file.name).unlink()
        raise


@contextmanager
def _partial(path: Path) -> Iterator[Partial]:
    """Yield a partial folder. Raises DestinationError where it cannot be made."""
    with ExitStack() as stack:
        try:
            partial = stack.enter_context(partial_folder(path))
        except OSError as error:
            raise _not_writable(path, error) from error
        yield partial


def _not_writable(path: Path, error: Exception) -> DestinationError:
    return DestinationError(f"{path} cannot be written: {error}. Choose another place with -o.")


def _not_published(partial: Partial, error: OSError) -> str:
    """Return the message for contents that could not take the place of the destination."""
    if partial.is_needed:
        return (
            f"{partial.folder} is incomplete: {error}. The rest lies in {partial.path}. Correct this and run the same "
            "command again, or read the bundle, which completes it."
        )
    return f"{partial.folder} could not be replaced: {error}. It was left as it was; choose another folder with -o."


def _existing_place(path: Path) -> Path:
    """Return the folder that a partial folder for `path` would lie in, or the first above it that exists."""
    place = place_of(path)
    return next(found for found in (place, *place.parents) if found.exists())


def _check_contents(folder: Path) -> None:
    """Refuse to replace what is no bundle, or holds more than one. Raises DestinationError."""
    if folder.exists() and not (folder / MANIFEST_NAME).is_file() and (not folder.is_dir() or contents(folder)):
        raise DestinationError(
            f"{folder} exists and is not a bundle, so it is not replaced. Choose another folder with -o, or remove it."
        )
    if strangers := _not_of_the_bundle(folder):
        raise DestinationError(
            f"{folder} holds files that its manifest does not name ({', '.join(strangers[:3])}), so it is not "
            "replaced. Move them elsewhere, or choose another folder with -o."
        )


def _not_of_the_bundle(folder: Path) -> list[str]:
    """Return the files in `folder` that the manifest there does not name; none where it names no files."""
    try:
        named = [file["path"] for file in read_document(folder / MANIFEST_NAME, MANIFEST)["files"]]
    except (DocumentError, KeyError, TypeError):
        return []
    known = {MANIFEST_NAME, UNFINISHED_MANIFEST, *named}
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if not path.is_dir()]
    # Partial folders are those of engines that are being built.
    return [path.as_posix() for path in files if path.as_posix() not in known and not any(map(is_partial, path.parts))]
