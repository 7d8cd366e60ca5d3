"""What a message says: the names, numbers and commands in it, whatever the words between them."""

import re


def naming(*facts: str) -> str:
    """Return a regular expression for messages that have these facts, in this order."""
    return "(?s)" + ".*".join(map(re.escape, facts))
