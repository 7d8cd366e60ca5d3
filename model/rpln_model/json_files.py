"""Reads the JSON files of checkpoints within limits: the outcome is a value, or a CheckpointError with the reason.

transformers reads most of these files again, and would end in a traceback for one that is nested too deeply.
"""

import json
import math
from pathlib import Path
from typing import Any, Final

from rpln_model.errors import CheckpointError

MOST_BYTES: Final = 1 << 26
"""The most bytes of a file."""
MOST_DEPTH: Final = 64
"""The most lists and objects inside each other."""
LFS_POINTER: Final = b"version https://git-lfs"
"""How a file begins that git has put in the place of a larger one."""


def read_json(path: Path, *, cure: str) -> Any:
    """Return the JSON value in the file `path`; `cure` is a sentence that says what to do about a damaged one.

    Raises:
        CheckpointError: it cannot be read, is no JSON, or is larger or nested more deeply than the limits allow.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        if content.startswith(LFS_POINTER):
            raise CheckpointError(f"{path} is a Git LFS pointer, not the file; run `git lfs pull` in its folder")
        value = _DECODER.decode(content.decode())
        _check_depth(value)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        reason = f"more than {MOST_DEPTH} lists inside each other" if isinstance(error, RecursionError) else error
        raise CheckpointError(f"{path} is not valid JSON ({reason}). {cure}") from error
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError for lists and objects too deep inside each other. It goes level by level, without recursion."""
    level, depth = [value], 0
    while containers := [item for item in level if isinstance(item, dict | list)]:
        if depth == MOST_DEPTH:
            raise ValueError(f"it has more than {MOST_DEPTH} lists and objects inside each other")
        level = [part for item in containers for part in (item.values() if isinstance(item, dict) else item)]
        depth += 1


def _finite_integer(text: str) -> int:
    if math.isinf(float(text)):
        raise ValueError(f"the number {text[:40]} is too large")
    return int(text)


_DECODER: Final = json.JSONDecoder(parse_int=_finite_integer)
