"""The baseline of the language model: n-grams with interpolated Kneser-Ney smoothing.

After Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998), section 2.7, with one
discount an order, D = n1 / (n1 + 2 n2). Below the unigrams stands the uniform distribution, so that no token has
probability 0.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Gram: TypeAlias = tuple[int, ...]


class KneserNey:
    """P(token | the tokens before it), from the counts of streams of token ids."""

    def __init__(self, streams: Iterable[Sequence[int]], *, order: int, vocabulary_size: int) -> None:
        """Count the n-grams up to `order`; the first tokens of a stream are contexts and not themselves counted."""
        self.order = order
        self._vocabulary_size = vocabulary_size
        counts = Counter(
            tuple(stream[end - order : end]) for stream in streams for end in range(order, len(stream) + 1)
        )
        self._levels = [_Level(counts)]
        while self._levels[-1].length > 1:
            self._levels.append(_Level(_continuations(self._levels[-1].counts)))

    def probability(self, token: int, context: Sequence[int]) -> float:
        """P(token | the last `order` - 1 tokens of `context`), which must be that many at least."""
        gram = (*context[len(context) - self.order + 1 :], token)
        probability = 1 / self._vocabulary_size
        for level in reversed(self._levels):
            probability = level.interpolated(gram[len(gram) - level.length :], probability)
        return probability


class _Level:
    """The grams of one length, their discount, and per context how many tokens and different tokens follow."""

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
        """The gram's discounted share, and what the discounts left, given out as `lower` says."""
        followers = self.followers[gram[:-1]]
        if not followers:
            return lower
        kept = max(self.counts[gram] - self.discount, 0)
        return (kept + self.discount * self.different[gram[:-1]] * lower) / followers


def _continuations(counts: Counter[Gram]) -> Counter[Gram]:
    """Of each gram one shorter, how many different tokens stand before it."""
    before: defaultdict[Gram, int] = defaultdict(int)
    for gram in counts:
        before[gram[1:]] += 1
    return Counter(before)
