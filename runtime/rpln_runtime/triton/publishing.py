"""A repository appears at its destination whole or not at all; an older one stays until the new one is complete.

A process that is killed meanwhile leaves its folder behind; the next one to write there puts it right.
"""

import os
import re
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
        _recover(destination)
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


def _recover(destination: Path) -> None:
    """Put an older repository back that a killed process had moved away, and drop what it had not finished."""
    pattern = re.compile(rf"\.{re.escape(destination.name)}\.(\d+)\.(partial|replaced)")
    for path in list(destination.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None or _is_alive(int(match[1])):
            continue
        if match[2] == "replaced" and not destination.exists():
            path.rename(destination)
        else:
            shutil.rmtree(path)


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


def _sibling(destination: Path, kind: str) -> Path:
    return destination.with_name(f".{destination.name}.{os.getpid()}.{kind}")
