"""What a generation makes: rows while they grow, and what they have become."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Generated:
    """A finished sequence.

    Attributes:
        tokens: the new tokens, the one that ended the sequence included.
        score: by beam search, the sum of their log-probabilities over their number to the power of length_penalty.
    """

    tokens: list[int]
    score: float | None = None


@dataclass(slots=True, kw_only=True)
class GrowingSequence:
    """A sequence while it grows.

    Attributes:
        prompt: the place of its prompt among those of the call.
        sequence: its place among the sequences of that prompt.
        context: the prompt's tokens, as the decoder gets them.
        random: what sampling draws from.
        tokens: the new ones so far.
    """

    prompt: int
    sequence: int
    context: Sequence[int]
    random: np.random.Generator
    tokens: list[int] = field(default_factory=list)
