"""The folder for files that depend on this machine and are kept from one run to the next."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder of rpln: `$XDG_CACHE_HOME/rpln`, or `~/.cache/rpln`. It need not exist yet.

    The place is that of the XDG Base Directory Specification.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rpln"
