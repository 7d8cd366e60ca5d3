"""The lines that a command prints every 15 seconds where stderr is no terminal; on a busy machine, any command may."""

import re


def without_progress(printed: str) -> str:
    """Return what a command printed on stderr beside such lines."""
    return re.sub(r"^[\w ]+(, \d+%)?, \d+ s\n", "", printed, flags=re.MULTILINE)
