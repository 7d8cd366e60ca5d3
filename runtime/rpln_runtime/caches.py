"""Where what depends on this machine is kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of our caches, by the XDG base directory specification. It need not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rpln"
