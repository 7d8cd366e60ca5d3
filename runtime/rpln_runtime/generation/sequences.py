"""Sequences that are generated: while they grow, and when they are finished."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Generated:
    """A finished sequence.

    Attributes:
        tokens: the ids of the new tokens, with the one that ended the sequence.
        score: with beam search, the sum of the log-probabilities of the tokens, divided by their number to the power of
            `length_penalty`; None without beam search.
    """

    tokens: list[int]
    score: float | None = None


@dataclass(slots=True, kw_only=True)
class GrowingSequence:
    """A sequence while it grows.

    Attributes:
        prompt: the place of its prompt among those of the call.
        sequence: its place among the sequences of the prompt.
        context: the ids of the prompt's tokens.
        random: the random numbers that sampling draws.
        tokens: the ids of the new tokens so far.
    """

    prompt: int
    sequence: int
    context: Sequence[int]
    random: np.random.Generator
    tokens: list[int] = field(default_factory=list)
