"""Compares messages by their facts: the C++ runtime words them in its own way, but names the same things."""

import re

FACT = re.compile(r"'([^']+)'|\"([^\"]+)\"|(?<![\w-])(-?\w*[_\d][\w.-]*)")
WORD = re.compile(r"[\w.<>-]+")
PLACE = re.compile(r": (the manifest.*?) (?:is|has|holds) ")


def facts_of(message: str) -> set[str]:
    """Return the names, values and limits in a message: what is quoted, numbers, and words with an underscore."""
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", message)
    return {next(filter(None, found)).rstrip(".") for found in FACT.findall(plain)}


def words_of(message: str) -> set[str]:
    """Return all words and numbers of a message."""
    return {word.rstrip(".") for word in WORD.findall(message)}


def place_of(message: str) -> str | None:
    """Return the place in a manifest that breaks its schema, such as `the manifest.graphs[0].opset`."""
    found = PLACE.search(message)
    return found[1] if found else None


def assert_says_the_same(message: str, expected: str) -> None:
    """Check that all names, values and limits of the expected message are in the other one."""
    assert facts_of(expected) - words_of(message) == set(), (message, expected)
