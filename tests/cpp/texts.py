"""Random texts that are hard to tokenize, made of all of Unicode and of characters with rules of their own."""

import random
from collections.abc import Callable

Draw = Callable[[random.Random], str]

SPACES = " \t\n\r\v\f\x1c\x85\xa0\u1680\u2003\u2028\u202f\u3000"
SPECIAL = ("<mask>", "<s>", "</s>", "<pad>", "<unk>", "<mas", "<mask", " <mask> ")
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "''", "\u2019s")
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "is",
    "was",
    "he",
    "for",
    "with",
    "his",
    "had",
    "not",
    "are",
    "from",
    "have",
]
CLUSTERS = ("e\u0301", "👩‍👩‍👧‍👦", "🇳🇴", "क्षि", "ﬁ", "İ", "ß", "각", "\u200d", "\ufeff", "\ufffd", "\x00")


def between(first: int, last: int) -> Draw:
    """Return a function that draws a character of a range, which must hold no surrogates."""
    return lambda draw: chr(draw.randint(first, last))


def one_of(choices: str | tuple[str, ...] | list[str]) -> Draw:
    """Return a function that draws one of the given characters."""
    return lambda draw: draw.choice(choices)


def anything(draw: random.Random) -> str:
    """Return a random character of any plane."""
    return chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)]))


KINDS: tuple[Draw, ...] = (
    anything,
    between(0x00, 0x1F),
    between(0x20, 0x7E),
    between(0x7F, 0x9F),
    between(0xA0, 0x24F),
    between(0x300, 0x36F),
    between(0x370, 0x52F),
    between(0x5D0, 0x6FF),
    between(0x900, 0x97F),
    between(0x4E00, 0x9FFF),
    between(0xAC00, 0xD7A3),
    between(0x1F300, 0x1FAFF),
    between(0x20000, 0x323AF),
    one_of("0123456789٣Ⅷ½²"),
    one_of(SPACES),
    one_of(SPECIAL),
    one_of(CONTRACTIONS),
    one_of(CLUSTERS),
    one_of(WORDS),
    lambda draw: " " * draw.randint(1, 4),
    lambda draw: " " + draw.choice(WORDS),
)


def random_texts(count: int, *, seed: int) -> list[str]:
    """Return `count` texts, each of a few kinds of characters. The first ones are the shortest possible."""
    draw = random.Random(seed)
    texts = ["", " ", "  ", "<mask>", "\x00"]
    while len(texts) < count:
        kinds = draw.sample(KINDS, draw.randint(1, 6))
        texts.append("".join(draw.choice(kinds)(draw) for _ in range(draw.randint(1, 40))))
    return texts
