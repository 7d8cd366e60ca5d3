"""Files as pieces: one stream of compressed files, cut into parts that a transfer takes, and put together again."""

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

LIST: Final = "pieces.json"
"""The file beside the pieces that holds their names, in order, with their SHA-256."""
PRESET: Final = 1
"""The effort of the compression. Its dictionary, 1 MiB, reaches over a few hundred rows of a matrix."""


def pack(folder: Path, pieces: Path, *, most_bytes: int) -> list[Path]:
    """Write the files of `folder` as pieces of at most `most_bytes` into the empty folder `pieces`; return them."""
    archive = pieces / "archive"
    with lzma.open(archive, "wb", preset=PRESET) as compressed, tarfile.open(fileobj=compressed, mode="w|") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, arcname=str(path.relative_to(folder)))
    written: list[Path] = []
    with archive.open("rb") as stream:
        while part := stream.read(most_bytes):
            written.append(pieces / f"piece-{len(written):02}")
            written[-1].write_bytes(part)
    archive.unlink()
    rows = [{"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in written]
    (pieces / LIST).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return written


def unpack(pieces: Path, folder: Path) -> None:
    """Write the files that are in `pieces` into `folder`. Raises ValueError where a piece is missing or damaged."""
    rows = json.loads((pieces / LIST).read_text(encoding="utf-8"))
    parts = [_part(pieces / row["name"], row["sha256"]) for row in rows]
    with lzma.open(_Joined(parts)) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:  # type: ignore[call-overload]
        tar.extractall(folder, filter="data")


def _part(path: Path, sha256: str) -> Path:
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{path} is missing or damaged. Send it once more.")
    return path


class _Joined(io.RawIOBase):
    """Reads several files as if they were one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._parts: Iterator[bytes] = (path.read_bytes() for path in paths)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` as far as the current file goes."""
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._rest = memoryview(part)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
