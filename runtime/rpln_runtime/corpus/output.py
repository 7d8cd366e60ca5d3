"""The output: written beside its place, on disk window by window, and renamed when it is whole.

`NAME.part` grows; `NAME.journal` says what the run is and then, a line for each window, how far it is.
A window is on disk before the journal tells of it, so whenever a process dies, the last line of the journal is true,
and what the part holds beyond it is cut off by the next run. Once the output is in its place, the journal goes.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from rpln_runtime.corpus.progress import Progress
from rpln_runtime.errors import RplnError

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None  # type: ignore[assignment] # so that one name tells

PART: Final = ".part"
JOURNAL: Final = ".journal"
_MAGIC: Final = b"rpln-runtime corpus, journal 1\n"


class OutputError(RplnError):
    """An output that cannot be written, is there already, or belongs to another run."""

    exit_code = 9


class Output:
    """The output of a run, from where it was left.

    Attributes:
        progress: what is on disk.
    """

    def __init__(self, path: Path, part: BinaryIO, journal: BinaryIO, progress: Progress) -> None:
        self.progress = progress
        self._path = path
        self._part = part
        self._journal = journal

    def write(self, line: bytes) -> None:
        """Add a line, which counts once it is committed."""
        with _refusals(self._path):
            self._part.write(line)

    def commit(self, *, lines: int, errors: int, read: int, sha256: str) -> None:
        """Put on disk what was written, and then how far the run is with it, which is `Progress` in parts."""
        with _refusals(self._path):
            _flush(self._part)
            written = self._part.tell()
            self.progress = Progress(lines=lines, errors=errors, read=read, sha256=sha256, written=written)
            _append_row(self._journal, dataclasses.asdict(self.progress))

    def publish(self) -> None:
        """Put the output in its place."""
        with _refusals(self._path):
            _beside(self._path, PART).replace(self._path)
            _beside(self._path, JOURNAL).unlink()


@contextmanager
def open_output(path: Path, run: Mapping[str, Any]) -> Iterator[Output]:
    """Open the output `path` of a `run`, which is what must be the same, name by name, for an earlier run to go on.

    Raises OutputError for an output that is there already, an earlier run that was another, one that is still at work,
    and whatever the file system refuses.
    """
    if not path.name:
        raise OutputError(f"{path} is a folder, expected the name of a file to write.")
    with ExitStack() as files, _refusals(path):
        journal = files.enter_context(_open_locked(_beside(path, JOURNAL)))
        if rows := _read_rows(journal):
            _check_run(rows[0], run, path)
        else:
            _check_free(path)
            journal.write(_MAGIC)
            _append_row(journal, run)
        progress = Progress(**rows[-1]) if len(rows) > 1 else Progress()
        part = files.enter_context(_open_part(path, progress))
        keep = files.pop_all()
    try:
        yield Output(path, part, journal, progress)
    finally:
        with _refusals(path):  # what is left in a buffer is written now, or does not fit once more
            keep.close()


def start_again(path: Path) -> str:
    """How to begin anew, as the end of a message."""
    return f"remove {_beside(path, PART)} and {_beside(path, JOURNAL)} to start again."


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the file system refuses is an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"writing {path} failed: {error}. Put that right and run the same again: it goes on where it stopped."
        ) from error


def _open_locked(path: Path) -> BinaryIO:
    """The file at `path`, made where there is none, which no other process has open this way."""
    file = path.open("a+b")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink == 0:
            raise BlockingIOError  # which finished in between
    except OSError as error:
        file.close()
        if not isinstance(error, BlockingIOError):
            raise
        raise OutputError(f"another process is at work on this output: it holds {path}. Wait for it.") from error
    return file


def _read_rows(journal: BinaryIO) -> list[Any]:
    """The journal's lines; one that was being written when its process died is cut off."""
    journal.seek(0)
    content = journal.read()
    if not _MAGIC.startswith(content[: len(_MAGIC)]):
        raise OutputError(f"{journal.name} is no journal of a run: move it away, or choose another output.")
    rows, newline, _ = content.removeprefix(_MAGIC).rpartition(b"\n")
    journal.truncate(len(_MAGIC) + len(rows) + 1 if newline else 0)
    try:
        return [json.loads(row) for row in rows.splitlines()]
    except ValueError as error:
        raise OutputError(f"{journal.name} is damaged ({error}): remove it, and what lies beside it.") from error


def _check_run(earlier: Mapping[str, Any], run: Mapping[str, Any], path: Path) -> None:
    for name, value in json.loads(json.dumps(run)).items():
        if earlier.get(name) != value:
            raise OutputError(
                f"{path} was begun by a run with another {name}: {earlier.get(name)!r} then, {value!r} now. Go on as "
                f"it was begun, or {start_again(path)}"
            )


def _check_free(path: Path) -> None:
    """A run that begins finds nothing at its places."""
    for taken in (path, _beside(path, PART)):
        if taken.exists():
            _beside(path, JOURNAL).unlink()
            raise OutputError(f"{taken} exists already. Remove it, or choose another output.")


def _open_part(path: Path, progress: Progress) -> BinaryIO:
    part = _beside(path, PART)
    if path.exists():
        if part.exists() or path.stat().st_size != progress.written:
            raise OutputError(f"{path} has come into being since this run began. Remove it, or choose another output.")
        # The earlier process died after it put the output in its place, and before it removed the journal.
        path.replace(part)
    size = part.stat().st_size if part.exists() else 0
    if size < progress.written:
        raise OutputError(
            f"{part} has {size:,} bytes, expected the {progress.written:,} that were written: {start_again(path)}"
        )
    file = part.open("ab")
    file.truncate(progress.written)
    file.seek(0, os.SEEK_END)
    return file


def _append_row(journal: BinaryIO, row: Mapping[str, Any]) -> None:
    journal.write(f"{json.dumps(row)}\n".encode())
    _flush(journal)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
