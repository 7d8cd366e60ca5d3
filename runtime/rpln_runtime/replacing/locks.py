"""Locks of files, which the kernel releases when the process that holds them ends, however it ends.

They hold between containers that share a volume, where the number of a process says nothing. There are none on Windows,
and on some file systems.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def take(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file, and return whether this process has the lock now.

    It ends when the file is closed. `wait` is for the lock that another process holds; without it, the answer is False.
    Where there are no locks, the answer is False as well.
    """
    with suppress(OSError):
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Run the body while no other process runs it with the same `path`: the file of the lock, which is removed then.

    Where there are no locks, the body runs at once. Raises OSError where the file cannot be made.
    """
    while True:
        with opened(path) as descriptor:
            # The process that had the lock has removed the file, and another one may have made it again.
            if take(descriptor, wait=True) and not _is_at(descriptor, path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Yield the descriptor of the file at `path`, which is made where it is missing. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
