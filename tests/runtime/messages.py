"""Compares messages by the names, numbers and commands in them, whatever the words between."""

import re


def naming(*facts: str) -> str:
    """Return a regular expression for messages that have these facts, in this order."""
    return "(?s)" + ".*".join(map(re.escape, facts))
