"""Numbers in the parameters of a configuration, which are texts."""

import re


def number_from_text(text: str) -> int | None:
    """Return the number that `text` is. None for anything but the digits 0 to 9, and for 20 of them or more.

    Python's `int` and `str.isdecimal` also take the digits of other scripts, which Triton's backends do not.
    """
    return int(text) if re.fullmatch("[0-9]{1,19}", text) else None
