"""A repository appears at its destination whole or not at all; an older one stays until the new one is complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rpln_runtime.triton.errors import RepositoryDestinationError

MARKER: Final = "rpln-triton.json"
"""The file in a repository that says it is one of ours. Triton takes no notice of files there."""


@contextmanager
def published(destination: Path) -> Iterator[Path]:
    """Yield a folder beside `destination` to write in; it takes its place when the block ends without an exception.

    Raises RepositoryDestinationError for a place that holds something else, and for what the file system refuses.
    """
    destination = destination.resolve()
    _check(destination)
    partial, replaced = (_sibling(destination, kind) for kind in ("partial", "replaced"))
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        _check(destination)
        if destination.exists():
            destination.rename(replaced)
        partial.rename(destination)
    except OSError as error:
        raise RepositoryDestinationError(
            f"{destination} cannot be written: {error}. Make room, or choose another folder with -o."
        ) from error
    finally:
        if replaced.exists() and not destination.exists():
            replaced.rename(destination)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _check(destination: Path) -> None:
    if not destination.exists() or (destination / MARKER).is_file():
        return
    if not destination.is_dir() or any(destination.iterdir()):
        raise RepositoryDestinationError(
            f"{destination} exists and is no repository that rpln triton wrote, so it is not replaced. Choose another "
            "folder with -o, or remove it."
        )


def _sibling(destination: Path, kind: str) -> Path:
    return destination.with_name(f".{destination.name}.{os.getpid()}.{kind}")
