"""Folders that are replaced as a whole, or not at all. What processes that were killed have left is cleaned up.

A process writes into a partial folder, `.NAME.RANDOM.partial`, beside the destination NAME and on its file system:

    lock        the file that the process has locked for as long as it lives
    new         what is to become the destination
    temporary   whatever else the process has to write

When `new` is complete, it takes the place of the destination in the best way that the system offers:

1. Where nothing is at the destination, `new` is renamed to it.
2. Otherwise the two are exchanged in one step, so that a reader finds the old or the new folder at every moment.
3. Where the system cannot do that, the destination is renamed to `replaced`, and then `new` to the destination. If the
   process dies between the two, `recover` moves the old folder back.
4. Where the destination cannot be renamed, because it is a mount point or lies in a layer of a container's image, its
   contents are replaced, file by file, since not even a folder can be renamed into such a layer. `new` becomes
   `clearing` while the old files are removed, and `filling` while the new ones are moved in. The mark, a file without
   which no reader takes the folder for complete, is the first that goes and the last that comes, from the folder
   `last`. If the process dies meanwhile, `recover` continues.

The partial folder of a mount point lies in it, as `.rpln.RANDOM.partial`.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rpln_runtime.replacing.exchange import exchange
from rpln_runtime.replacing.locks import locked, opened, take
from rpln_runtime.replacing.mounts import is_mount_point

WITHIN: Final = "rpln"
"""The name in the partial folders of a mount point, which may be mounted elsewhere under another name."""
FIXED: Final = frozenset({errno.EBUSY, errno.EXDEV})
"""The errors by which a system refuses to rename a folder that is a mount point, or part of an image's layer."""

_LOCK: Final = "lock"
_ENDING: Final = r"\.([0-9a-f]{8}\.partial|lock)"
_ANY: Final = re.compile(rf"\..+{_ENDING}")
_WITHIN: Final = re.compile(rf"\.{WITHIN}{_ENDING}")


@dataclass(frozen=True, slots=True)
class Partial:
    """A partial folder: `path`, which belongs to the destination `folder`."""

    path: Path
    folder: Path

    @property
    def new(self) -> Path:
        """The folder to write what is to become the destination in."""
        return self.path / "new"

    @property
    def temporary(self) -> Path:
        """The folder for whatever else has to be written. It is removed with the partial folder."""
        return self.path / "temporary"

    @property
    def replaced(self) -> Path:
        """The old folder, while there is neither an old nor a new one at the destination."""
        return self.path / "replaced"

    @property
    def clearing(self) -> Path:
        """The new contents, while those of the destination are removed."""
        return self.path / "clearing"

    @property
    def filling(self) -> Path:
        """The new contents, while they are moved to the destination."""
        return self.path / "filling"

    @property
    def last(self) -> Path:
        """The folder of the mark, while the contents of the destination are replaced."""
        return self.path / "last"

    def publish(self, *, mark: str) -> None:
        """Put `new` in the place of the destination, and what was there into the partial folder.

        `mark` is the file of the folder that readers look for. After an exception, the destination is the old folder or
        the new one; where a process dies, `recover` makes it one of them. Raises OSError.
        """
        with locked(_lock_file(self.path.parent, self.folder)):
            try:
                self._take_place(mark)
            finally:
                self.recover()

    def recover(self) -> None:
        """Undo or complete what was begun with the destination."""
        if self.replaced.exists() and not self.folder.exists():
            self.replaced.rename(self.folder)
        if self._is_half_moved:
            self._move_contents()

    @property
    def is_needed(self) -> bool:
        """Whether the destination lacks something that only this folder has."""
        return self._is_half_moved or (self.replaced.exists() and not self.folder.exists())

    @property
    def _is_half_moved(self) -> bool:
        """Whether the contents of the destination are being replaced: they have no mark then."""
        begun = (self.clearing.exists() or self.filling.exists()) and self.last.exists()
        return begun and not any((self.folder / path.name).exists() for path in self.last.iterdir())

    def _take_place(self, mark: str) -> None:
        if not self.folder.exists():
            self.new.rename(self.folder)
        elif self.path.parent == self.folder:
            self._replace_contents(mark)
        else:
            try:
                exchange(self.new, self.folder)
            except OSError:
                self._rename_both(mark)

    def _rename_both(self, mark: str) -> None:
        try:
            self.folder.rename(self.replaced)
        except OSError as error:
            if error.errno not in FIXED:
                raise
            self._replace_contents(mark)
        else:
            self.new.rename(self.folder)
            self.replaced.rename(self.new)

    def _replace_contents(self, mark: str) -> None:
        self.last.mkdir()
        (self.new / mark).rename(self.last / mark)
        self.new.rename(self.clearing)
        (self.folder / mark).unlink(missing_ok=True)
        self._move_contents()

    def _move_contents(self) -> None:
        if self.clearing.exists():
            for path in self.folder.iterdir():
                if not _WITHIN.fullmatch(path.name):  # this one, or that of another process
                    _remove(path)
            self.clearing.rename(self.filling)
        for place in (self.filling, self.last):
            for path in [path for path in place.rglob("*") if path.is_file()]:
                _move_file(path, self.folder / path.relative_to(place))
        _remove(self.filling)

    def remove(self) -> None:
        """Remove the partial folder. Where that is cut short, what is left still says what it is."""
        for path in self.path.iterdir():
            if path.name not in {self.last.name, _LOCK}:
                _remove(path)
        _remove(self.last)
        _remove(self.path / _LOCK)
        self.path.rmdir()


@contextmanager
def partial_folder(folder: Path) -> Iterator[Partial]:
    """Yield a partial folder for the destination `folder`, and remove it when the body ends.

    First, `recover` is called. Folders that the destination lies in are made; those that are empty in the end are
    removed again. Raises OSError.
    """
    folder = folder.resolve()
    missing = [path for path in folder.parents if not path.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover(folder)
        place = place_of(folder)
        partial = Partial(place / f".{_name_in(place, folder)}.{secrets.token_hex(4)}.partial", folder)
        with ExitStack() as lock:
            with locked(_lock_file(place, folder)):
                partial.path.mkdir()
                take(lock.enter_context(opened(partial.path / _LOCK)))
            try:
                partial.new.mkdir()
                partial.temporary.mkdir()
                yield partial
            finally:
                if not partial.is_needed:
                    with suppress(OSError):  # what cannot be removed now is removed the next time
                        partial.remove()
    finally:
        for path in missing:
            with suppress(OSError):  # it is not empty, as after something was published, or was not made
                path.rmdir()


def recover(folder: Path) -> None:
    """Put right what processes that are dead have left of the destination `folder`, and remove their partial folders.

    A process is dead when its lock can be taken. This waits for a process that is about to publish. Raises OSError.
    """
    folder = folder.resolve()
    for place in (folder.parent, folder):
        if _partials(place, folder):
            with locked(_lock_file(place, folder)):
                for partial in _partials(place, folder):
                    _recover_one(partial)


def contents(folder: Path) -> list[Path]:
    """Return what is in `folder`, without partial folders and their locks."""
    return [path for path in folder.iterdir() if not is_partial(path.name)]


def is_partial(name: str) -> bool:
    """Return whether this is the name of a partial folder or of a lock."""
    return _ANY.fullmatch(name) is not None


def place_of(folder: Path) -> Path:
    """Return the folder that the partial folders of the destination `folder` lie in."""
    folder = folder.resolve()
    return folder if is_mount_point(folder) else folder.parent


def _recover_one(partial: Partial) -> None:
    try:
        descriptor = os.open(partial.path / _LOCK, os.O_RDWR)
    except PermissionError:  # it is another user's
        return
    except FileNotFoundError:  # it died before it made the lock, or after it removed the lock
        with suppress(OSError):
            partial.path.rmdir()
        return
    try:
        if take(descriptor):
            partial.recover()
            with suppress(OSError):
                partial.remove()
    finally:
        os.close(descriptor)


def _name_in(place: Path, folder: Path) -> str:
    return WITHIN if place == folder else folder.name


def _lock_file(place: Path, folder: Path) -> Path:
    return place / f".{_name_in(place, folder)}.lock"


def _partials(place: Path, folder: Path) -> list[Partial]:
    """Return the partial folders of the destination that lie in `place`; none where there is no such folder."""
    pattern = re.compile(rf"\.{re.escape(_name_in(place, folder))}\.[0-9a-f]{{8}}\.partial")
    try:
        return [Partial(path, folder) for path in place.iterdir() if pattern.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _move_file(path: Path, target: Path) -> None:
    """Move a file, on to another file system as well: `target` is there when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.rename(target)
    except OSError:
        copy = target.with_name(f".{target.name}.copy")
        shutil.copy2(path, copy)
        copy.rename(target)
        path.unlink()


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
