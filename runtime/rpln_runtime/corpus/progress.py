"""How far a run through a corpus is: what the journal keeps, and what a caller is told."""

import hashlib
from dataclasses import dataclass
from typing import Final

_NOTHING: Final = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The lines that are answered and on disk.

    Attributes:
        lines: how many.
        errors: how many of them hold an error instead of an answer.
        read: bytes of the input that they are.
        sha256: the SHA-256 of those bytes, in hex.
        written: bytes of the output that they became.
    """

    lines: int = 0
    errors: int = 0
    read: int = 0
    sha256: str = _NOTHING
    written: int = 0
