"""Likeness of texts by their words, a baseline without a network: the cosine of tf-idf vectors."""

import math
import re
from collections import Counter
from collections.abc import Sequence


class TfIdf:
    """Weights of words: the fewer training texts have a word, the more it weighs; n times in a text count 1 + ln n."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts_with = Counter(word for text in texts for word in set(words_of(text)))
        self._texts = len(texts)

    def likeness(self, one: str, other: str) -> float:
        """Return the cosine of the two texts' vectors, or 0 if a text has no word."""
        return dot(self.vector(one), self.vector(other))

    def vector(self, text: str) -> dict[str, float]:
        """Return the weights of the text's words; the sum of their squares is 1."""
        weights = {word: (1 + math.log(count)) * self.weight(word) for word, count in Counter(words_of(text)).items()}
        norm = math.sqrt(sum(weight * weight for weight in weights.values()))
        return {word: weight / norm for word, weight in weights.items()}

    def weight(self, word: str) -> float:
        """Return a word's inverse document frequency, smoothed."""
        return math.log((1 + self._texts) / (1 + self._texts_with[word])) + 1


def dot(one: dict[str, float], other: dict[str, float]) -> float:
    """Return the dot product of two vectors of words."""
    return sum(weight * other[word] for word, weight in one.items() if word in other)


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters, without marks."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())
