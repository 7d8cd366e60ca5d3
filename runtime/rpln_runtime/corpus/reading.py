"""The input, a window of lines at a time: bounded memory, and the same windows whenever a run goes on."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, TypeAlias

MOST_LINE_BYTES: Final = 1 << 22
"""A line that is longer is an error, and never held whole."""
MOST_WINDOW_BYTES: Final = 1 << 18
"""A window ends with the line that reaches it. Of 1,024 lines it is what bounds memory where lines are long."""


Windows: TypeAlias = "Iterator[tuple[Span, list[bytes]]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Neighbouring lines of the input: the first one's number, counted from 1, how many, and where in bytes.

    `sha256` is that of the whole input up to `stop`.
    """

    first: int
    count: int
    start: int
    stop: int
    sha256: str


def read_windows(file: BinaryIO, *, most_lines: int, first: int = 1, digest: Any = None) -> Windows:
    """Yield the lines from where `file` stands, which is the line numbered `first`, in windows of `most_lines`.

    `digest` is the SHA-256 object that has seen all before (None: there is nothing before). A line that is too long
    is cut one byte past MOST_LINE_BYTES.
    """
    digest = hashlib.sha256() if digest is None else digest
    start = file.tell()
    while True:
        lines: list[bytes] = []
        while len(lines) < most_lines and file.tell() - start < MOST_WINDOW_BYTES:
            if not (line := _read_line(file, digest)):
                break
            lines.append(line)
        if not lines:
            return
        stop = file.tell()
        yield Span(first=first, count=len(lines), start=start, stop=stop, sha256=digest.hexdigest()), lines
        first, start = first + len(lines), stop


def read_span(file: BinaryIO, span: Span) -> list[bytes]:
    """Return the lines of a window once more."""
    file.seek(span.start)
    digest = hashlib.sha256()
    return [_read_line(file, digest) for _ in range(span.count)]


def digest_of_start(file: BinaryIO, size: int) -> Any:
    """Return the SHA-256 object over the first `size` bytes of `file`, which then stands behind them."""
    digest = hashlib.sha256()
    file.seek(0)
    while size and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    return digest


def _read_line(file: BinaryIO, digest: Any) -> bytes:
    kept = piece = file.readline(MOST_LINE_BYTES + 1)
    digest.update(piece)
    while len(piece) > MOST_LINE_BYTES and not piece.endswith(b"\n"):
        piece = file.readline(MOST_LINE_BYTES + 1)
        digest.update(piece)
    return kept
