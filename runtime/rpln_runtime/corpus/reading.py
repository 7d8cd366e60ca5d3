"""Reads the input in windows of lines, so that memory is limited. A run that goes on gets the same windows."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, TypeAlias

from rpln_runtime.limits import MOST_LINE_BYTES

MOST_WINDOW_BYTES: Final = 1 << 18
"""A window ends with the line that reaches this size, which limits memory where lines are long."""


Windows: TypeAlias = "Iterator[tuple[Span, list[bytes]]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A window of lines of the input.

    Attributes:
        first: the number of the first line, counted from 1.
        count: the number of lines.
        start: where the first line begins, in bytes.
        stop: where the last line ends, in bytes.
        sha256: the SHA-256 of the whole input up to `stop`.
    """

    first: int
    count: int
    start: int
    stop: int
    sha256: str


def read_windows(file: BinaryIO, *, most_lines: int, first: int = 1, digest: Any = None) -> Windows:
    """Yield windows of at most `most_lines` lines, from the place in `file` where the line number `first` begins.

    `digest` is the SHA-256 object over everything before that place (None: it is the beginning of the file). A line
    that is longer than MOST_LINE_BYTES is cut to one byte more.
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
    """Read the lines of a window again."""
    file.seek(span.start)
    digest = hashlib.sha256()
    return [_read_line(file, digest) for _ in range(span.count)]


def digest_of_start(file: BinaryIO, size: int) -> Any:
    """Return the SHA-256 object over the first `size` bytes of `file`, and leave the file at that place."""
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
