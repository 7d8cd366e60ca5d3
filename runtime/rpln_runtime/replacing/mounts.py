"""Whether a folder is a mount point, such as the volume of a container: such a folder cannot be renamed."""

import os
import re
from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/proc/self/mountinfo")
"""Linux's table of mount points, as proc_pid_mountinfo(5) describes it."""
_MOUNT_POINT: Final = 4
"""The column of a mount point. Spaces and the like are written as a backslash and three octal digits."""


def is_mount_point(folder: Path) -> bool:
    """Return whether `folder`, an absolute path without links, is a mount point.

    os.path.ismount compares devices, so that it does not see a folder that is mounted from the same file system.
    """
    try:
        rows = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return os.path.ismount(folder)
    return os.fsencode(folder) in {
        re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), row.split()[_MOUNT_POINT]) for row in rows
    }
