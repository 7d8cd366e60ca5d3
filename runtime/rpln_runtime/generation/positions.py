"""Position ids: the row of the position table that each token gets.

"forward" counts as in training, from the row after that of padding: the first token has position pad_token_id + 1. A
token with the id of padding has the row of padding, wherever it is, and does not count. This is what
`create_position_ids_from_input_ids` in transformers' modeling_roberta_prelayernorm.py does.

transformers' `generate` (4.57.6 and 5.23) gives every decoder positions from 0 instead, with which this architecture is
never trained. "transformers-generate" counts like that, for users who must reproduce its tokens.

Shapes: B batch, S new tokens, T earlier and new tokens.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from rpln_runtime.manifest import Generation

FORWARD: Final = "forward"
"""Positions are counted as in training."""
TRANSFORMERS_GENERATE: Final = "transformers-generate"
"""Positions are counted as transformers' `generate` counts them."""
SCHEMES: Final = (FORWARD, TRANSFORMERS_GENERATE)
"""The ways to count positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """A way to count positions.

    Attributes:
        first: the position of a sequence's first token.
        padding: the position of padding.
        skipped: the id of tokens that get the position of padding; None if there is none.
    """

    first: int
    padding: int
    skipped: int | None

    def counted(self, ids_BS: np.ndarray, mask_BS: np.ndarray) -> np.ndarray:
        """Return which tokens count, (B, S), int64.

        It is 0 for padding and for tokens that get the position of padding, and 1 for others.
        """
        return mask_BS if self.skipped is None else mask_BS * (ids_BS != self.skipped)

    def of(self, counted_BT: np.ndarray) -> np.ndarray:
        """Return the position ids, (B, T), int64. Tokens that count have consecutive ones."""
        return np.where(counted_BT, np.cumsum(counted_BT, axis=1) + (self.first - 1), self.padding)


def positions_from_scheme(scheme: str, generation: Generation) -> Positions:
    """Return the way to count positions that is called `scheme`.

    For a decoder that reads an encoder, `generate` counts as in training, so both schemes are the same.
    """
    if scheme == TRANSFORMERS_GENERATE and generation.start_token_id is None:
        return Positions(first=0, padding=0, skipped=None)
    # The number of padding's row is also the id that the network takes for padding.
    padding = generation.pad_position
    return Positions(first=generation.first_position, padding=padding, skipped=padding)
