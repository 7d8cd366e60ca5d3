"""Two paths exchange what they name, in one step, where the system can do that.

Linux can since 3.15, by renameat2 with RENAME_EXCHANGE, on most of its file systems. Python has no function for it.
"""

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
"""The descriptor that lets a relative path begin at the current folder."""
_RENAME_EXCHANGE: Final = 2


def exchange(one: Path, other: Path) -> None:
    """Let `one` name what `other` names, and the other way round. Nobody sees a moment at which one of them is missing.

    Raises OSError where that is refused; its errno is ENOSYS where the system has no such call.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(one), None, str(other))
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))
