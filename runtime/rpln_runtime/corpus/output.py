"""The output of a run: it grows in a file of its own, window by window, and gets its name when it is complete.

Beside the output NAME there are two files until then. `NAME.part` has the lines so far. `NAME.journal` begins with a
line that describes the run; each window adds a line that says how far the run is. A window is on disk before the
journal has its line. So whenever a process dies, the last line of the journal is true, and the next run cuts off what
`NAME.part` has beyond it. When the output gets its name, the journal is removed.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from rpln_runtime.corpus.progress import Progress
from rpln_runtime.corpus.reading import digest_of_start
from rpln_runtime.documents import DocumentError, document_from_bytes, shown
from rpln_runtime.errors import RplnError
from rpln_runtime.limits import OTHER
from rpln_runtime.manifest import value_from_json

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None  # type: ignore[assignment]

PART: Final = ".part"
JOURNAL: Final = ".journal"
WINDOW: Final = "window"
"""The name of the window in the description of a run."""
_MAGIC: Final = b"rpln-runtime corpus, journal 2\n"


class OutputError(RplnError):
    """Raised for an output that cannot be written, exists already, or belongs to another run."""

    exit_code = 9


class Output:
    """The output of a run, open to write where an earlier run stopped.

    Attributes:
        progress: how far the run is on disk.
    """

    def __init__(self, path: Path, part: BinaryIO, journal: BinaryIO, progress: Progress, digest: Any) -> None:
        """Go on behind `progress`. `digest` is the SHA-256 object over what `part` holds."""
        self.progress = progress
        self._digest = digest
        self._path = path
        self._part = part
        self._journal = journal

    def write(self, line: bytes) -> None:
        """Add a line. It counts only once it is committed."""
        with _refusals(self._path):
            self._part.write(line)
        self._digest.update(line)

    def commit(self, *, lines: int, errors: int, read: int, sha256: str) -> None:
        """Put the lines on disk, and then the progress of the run. The arguments are the fields of `Progress`."""
        with _refusals(self._path):
            _flush(self._part)
            written = self._part.tell()
            self.progress = Progress(
                lines=lines,
                errors=errors,
                read=read,
                sha256=sha256,
                written=written,
                written_sha256=self._digest.hexdigest(),
            )
            _append_row(self._journal, dataclasses.asdict(self.progress))

    def publish(self) -> None:
        """Give the output, which is complete, its name."""
        with _refusals(self._path):
            _beside(self._path, PART).replace(self._path)
            _beside(self._path, JOURNAL).unlink()


@contextmanager
def open_output(path: Path, run: Mapping[str, Any]) -> Iterator[Output]:
    """Open the output `path` of a run. An earlier run is continued if `run`, which describes it, is the same.

    As long as none of its lines is on disk, it may have had another window.

    Raises OutputError where the output exists already, the earlier run was a different one or is still at work, or the
    file system refuses to write.
    """
    if not path.name or path.is_dir():
        raise OutputError(f"{path} is a folder, expected the name of a file to write.")
    if path.exists() and not path.is_file():
        raise OutputError(
            f"{path} is no regular file, expected the name of a file to write, in which a run that was killed goes on. "
            "rpln run FOLDER - answers lines on the standard output."
        )
    with _refusals(path), ExitStack() as files:  # closing writes what is still in a buffer, which may fail, too
        journal = files.enter_context(_open_locked(_beside(path, JOURNAL)))
        rows = _read_rows(journal)
        if len(rows) == 1 and _changes(rows[0], run, journal.name) == [WINDOW]:
            _beside(path, PART).unlink(missing_ok=True)  # first, since a part without a journal is nobody's
            journal.truncate(0)
            rows = []
        if rows:
            _check_run(rows[0], run, path, journal.name)
        else:
            _check_free(path)
            journal.write(_MAGIC)
            _append_row(journal, run)
        progress = _progress_from_rows(rows, journal.name)
        part = files.enter_context(_open_part(path, progress))
        digest = _digest_of_part(part, progress, path)
        keep = files.pop_all()
    try:
        yield Output(path, part, journal, progress, digest)
    finally:
        with _refusals(path):
            keep.close()


def check_apart(source: Path, output: Path) -> None:
    """Raise OutputError if `source` is the file `output`, or one that is written beside it, by whatever name or link.

    The messages for a file that exists already would otherwise advise to remove the input.
    """
    for written in (output, *(_beside(output, suffix) for suffix in (PART, JOURNAL) if output.name)):
        with suppress(OSError):  # a file that does not exist is no other
            if source.samefile(written):
                same = (
                    "is the output, too" if written == output else f"is {written}, which is written beside the output"
                )
                raise OutputError(f"the input {source} {same}. Choose another output; the input is left as it is.")


def start_again(path: Path) -> str:
    """Return the end of a message: how to start again."""
    return f"remove {_beside(path, PART)} and {_beside(path, JOURNAL)} to start again."


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn an error of the file system into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"writing {path} failed: {error}. Correct this and run the same command again: it goes on where it stopped."
        ) from error


def _open_locked(path: Path) -> BinaryIO:
    """Open the file at `path`, or make it, and lock it. Raises OutputError where another process has it."""
    file = path.open("a+b")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink == 0:
            raise BlockingIOError  # the process that had it finished meanwhile, and removed it
    except OSError as error:
        file.close()
        if not isinstance(error, BlockingIOError):
            raise
        raise OutputError(f"another process writes this output: it has locked {path}. Wait for it.") from error
    return file


def _read_rows(journal: BinaryIO) -> list[Any]:
    """Return the rows of the journal. A last line that a dying process did not finish is cut off."""
    journal.seek(0)
    content = journal.read()
    if not _MAGIC.startswith(content[: len(_MAGIC)]):
        raise OutputError(f"{journal.name} is not the journal of a run: move it away, or choose another output.")
    rows, newline, _ = content.removeprefix(_MAGIC).rpartition(b"\n")
    journal.truncate(len(_MAGIC) + len(rows) + 1 if newline else 0)
    try:
        return [document_from_bytes(row, OTHER) for row in rows.split(b"\n")] if newline else []
    except DocumentError as error:
        raise _damaged(journal.name, error) from error


def _progress_from_rows(rows: Sequence[Any], journal: str) -> Progress:
    """Return the progress in the last row; none where the only row is the description of the run."""
    if len(rows) < 2:
        return Progress()
    try:
        progress: Progress = value_from_json(Progress, rows[-1], f"line {len(rows) + 1}")
    except TypeError as error:
        raise _damaged(journal, error) from error
    return progress


def _damaged(journal: str, reason: object) -> OutputError:
    return OutputError(f"{journal} is damaged ({reason}): remove it and the file that ends with {PART}.")


def _check_run(earlier: Any, run: Mapping[str, Any], path: Path, journal: str) -> None:
    for name in _changes(earlier, run, journal):
        raise OutputError(
            f"{path} was begun with another {name}: it was {earlier.get(name)!r}, and is {run[name]!r} now. Run the "
            f"same command as then, or {start_again(path)}"
        )


def _changes(earlier: Any, run: Mapping[str, Any], journal: str) -> list[str]:
    """Return the names of what is no longer as the journal describes it."""
    if not isinstance(earlier, dict):
        raise _damaged(journal, f"line 2 is {shown(earlier)}, expected the description of the run")
    return [name for name, value in json.loads(json.dumps(run)).items() if earlier.get(name) != value]


def _check_free(path: Path) -> None:
    """Raise OutputError unless the output and its part are free for a new run."""
    for taken in (path, _beside(path, PART)):
        if taken.exists():
            _beside(path, JOURNAL).unlink()
            raise OutputError(f"{taken} exists already. Remove it, or choose another output.")


def _open_part(path: Path, progress: Progress) -> BinaryIO:
    part = _beside(path, PART)
    if path.exists():
        if part.exists() or path.stat().st_size != progress.written:
            raise OutputError(f"{path} exists, and did not when this run began. Remove it, or choose another output.")
        # The earlier process died after it gave the output its name, and before it removed the journal.
        path.replace(part)
    size = part.stat().st_size if part.exists() else 0
    if size < progress.written:
        raise OutputError(
            f"{part} has {size:,} bytes, expected the {progress.written:,} that were written: {start_again(path)}"
        )
    file = part.open("a+b")
    file.truncate(progress.written)
    return file


def _digest_of_part(part: BinaryIO, progress: Progress, path: Path) -> Any:
    """Return the SHA-256 object over what the part holds. Raises OutputError where that is not what was written."""
    digest = digest_of_start(part, progress.written)
    if digest.hexdigest() != progress.written_sha256:
        raise OutputError(f"{part.name} holds other lines than were written (SHA-256): {start_again(path)}")
    part.seek(0, os.SEEK_END)
    return digest


def _append_row(journal: BinaryIO, row: Mapping[str, Any]) -> None:
    journal.write(f"{json.dumps(row)}\n".encode())
    _flush(journal)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
