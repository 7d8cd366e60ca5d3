"""How far a run through a corpus is. The journal keeps it, and callers are told."""

import hashlib
from dataclasses import dataclass
from typing import Final

_NOTHING: Final = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The lines that are answered and on disk.

    Attributes:
        lines: the number of these lines.
        errors: the number of them that got an error instead of an answer.
        read: how many bytes of the input they are.
        sha256: the SHA-256 of these bytes, in hex.
        written: how many bytes of the output their answers are.
        written_sha256: the SHA-256 of these bytes, in hex.
    """

    lines: int = 0
    errors: int = 0
    read: int = 0
    sha256: str = _NOTHING
    written: int = 0
    written_sha256: str = _NOTHING
