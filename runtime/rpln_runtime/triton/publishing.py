"""Publishing a repository: it appears at its destination complete, and an older one stays until then.

A process that is killed meanwhile leaves a partial folder behind. The next one that writes there removes it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rpln_runtime.replacing import contents, partial_folder
from rpln_runtime.triton.errors import RepositoryDestinationError

MARKER: Final = "rpln-triton.json"
"""The file that marks a repository which rpln triton wrote. Triton ignores it."""


@contextmanager
def published(destination: Path) -> Iterator[Path]:
    """Yield a folder to write in. It becomes `destination` when the block ends without an exception.

    Raises RepositoryDestinationError where the destination holds something else, or the file system refuses to write.
    """
    destination = destination.resolve()
    try:
        with partial_folder(destination) as partial:
            _check(destination)
            yield partial.new
            _check(destination)
            partial.publish(mark=MARKER)
    except OSError as error:
        raise RepositoryDestinationError(
            f"{destination} cannot be written: {error}. Make room, or choose another folder with -o."
        ) from error


def _check(destination: Path) -> None:
    if not destination.exists() or (destination / MARKER).is_file():
        return
    if not destination.is_dir() or contents(destination):
        raise RepositoryDestinationError(
            f"{destination} exists, and rpln triton did not write it, so it is not replaced. Choose another folder "
            "with -o, or remove it."
        )
