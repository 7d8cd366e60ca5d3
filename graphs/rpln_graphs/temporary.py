"""Temporary folders: in the folder that an export has for them, else where Python makes them ($TMPDIR)."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final

_PLACE: Final[ContextVar[Path | None]] = ContextVar("place", default=None)


@contextmanager
def temporary_files_in(place: Path) -> Iterator[None]:
    """Let `temporary_folder` make its folders in `place` while the body runs, in this thread."""
    token = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(token)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty folder that is removed when the body ends."""
    with tempfile.TemporaryDirectory(prefix="rpln-", dir=_PLACE.get()) as folder:
        yield Path(folder)


def how_to_make_room() -> str:
    """Return the end of a message about a folder for temporary files that is full."""
    if _PLACE.get():
        return "Make room there, or choose another folder with -o: temporary files lie beside it."
    return "Make room there, or set TMPDIR to a folder that has room for the weights in fp32."
