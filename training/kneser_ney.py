"""The baseline of the language model: n-grams with interpolated Kneser-Ney smoothing.

The source is Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998), section 2.7.
Each order has one discount, D = n1 / (n1 + 2 n2). Unigrams are interpolated with the uniform distribution, so that no
token has probability 0.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Gram: TypeAlias = tuple[int, ...]


class KneserNey:
    """A model of P(token | the tokens before it), from the counts of n-grams in streams of token ids."""

    def __init__(self, streams: Iterable[Sequence[int]], *, order: int, vocabulary_size: int) -> None:
        """Count the n-grams up to `order`. The first `order` - 1 tokens of a stream are contexts only."""
        self.order = order
        self._vocabulary_size = vocabulary_size
        counts = Counter(
            tuple(stream[end - order : end]) for stream in streams for end in range(order, len(stream) + 1)
        )
        self._levels = [_Level(counts)]
        while self._levels[-1].length > 1:
            self._levels.append(_Level(_continuations(self._levels[-1].counts)))

    def probability(self, token: int, context: Sequence[int]) -> float:
        """Return P(token | the last `order` - 1 tokens of `context`); the context must have as many."""
        gram = (*context[len(context) - self.order + 1 :], token)
        probability = 1 / self._vocabulary_size
        for level in reversed(self._levels):
            probability = level.interpolated(gram[len(gram) - level.length :], probability)
        return probability


class _Level:
    """The n-grams of one length, their discount, and for each context the number of tokens and of kinds that follow."""

    def __init__(self, counts: Counter[Gram]) -> None:
        self.counts = counts
        self.length = len(next(iter(counts)))
        once, twice = (sum(count == times for count in counts.values()) for times in (1, 2))
        self.discount = once / (once + 2 * twice)
        self.followers: Counter[Gram] = Counter()
        self.different: Counter[Gram] = Counter()
        for gram, count in counts.items():
            self.followers[gram[:-1]] += count
            self.different[gram[:-1]] += 1

    def interpolated(self, gram: Gram, lower: float) -> float:
        """Return the gram's discounted share, plus its part, `lower`, of the probability that the discounts left."""
        followers = self.followers[gram[:-1]]
        if not followers:
            return lower
        kept = max(self.counts[gram] - self.discount, 0)
        return (kept + self.discount * self.different[gram[:-1]] * lower) / followers


def _continuations(counts: Counter[Gram]) -> Counter[Gram]:
    """Return, for each gram without its first token, the number of different tokens before it."""
    before: defaultdict[Gram, int] = defaultdict(int)
    for gram in counts:
        before[gram[1:]] += 1
    return Counter(before)
