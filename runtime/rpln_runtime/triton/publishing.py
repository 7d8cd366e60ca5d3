"""A repository appears at its destination whole or not at all; an older one stays until the new one is complete.

A process that is killed meanwhile leaves a hidden folder behind; the next one to write there puts it right.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rpln_runtime.replacing import partial_folder, replace_folder
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
    try:
        partial = partial_folder(destination)
        try:
            yield partial
            _check(destination)
            replace_folder(destination, partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise RepositoryDestinationError(
            f"{destination} cannot be written: {error}. Make room, or choose another folder with -o."
        ) from error


def _check(destination: Path) -> None:
    if not destination.exists() or (destination / MARKER).is_file():
        return
    if not destination.is_dir() or any(destination.iterdir()):
        raise RepositoryDestinationError(
            f"{destination} exists and is no repository that rpln triton wrote, so it is not replaced. Choose another "
            "folder with -o, or remove it."
        )
