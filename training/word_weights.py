"""Likeness of texts by their words: the cosine of tf-idf vectors, a baseline that needs no training."""

import math
import re
from collections import Counter
from collections.abc import Sequence


class TfIdf:
    """Words weigh more the fewer of the training texts have them; a word that comes n times weighs 1 + ln n times."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts_with = Counter(word for text in texts for word in set(words_of(text)))
        self._texts = len(texts)

    def likeness(self, one: str, other: str) -> float:
        """Return the cosine of the two texts' vectors, 0 where a text has no word."""
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
    """Return the sum over words that both have of the product of their weights."""
    return sum(weight * other[word] for word, weight in one.items() if word in other)


def words_of(text: str) -> list[str]:
    """Return the text's words in small letters, without marks."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())
