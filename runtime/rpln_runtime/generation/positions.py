"""Positions: which row of the position table each token of a batch gets.

"forward" counts as the model was trained, from the row after padding's: a token whose id is that of padding has
padding's row wherever it stands, and does not count. transformers' `generate` (4.57.6 and 5.23)
hands every decoder positions from 0, which this architecture's own forward and training never use; who depends on its
tokens asks for "transformers-generate".

Shapes: B batch, T earlier and new tokens.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from rpln_runtime.manifest import Generation

FORWARD: Final = "forward"
TRANSFORMERS_GENERATE: Final = "transformers-generate"
SCHEMES: Final = (FORWARD, TRANSFORMERS_GENERATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """The position of a sequence's first token and that of padding; `skipped` is an id that does not count."""

    first: int
    padding: int
    skipped: int | None

    def counted(self, ids_BS: np.ndarray, mask_BS: np.ndarray) -> np.ndarray:
        """Return which of the tokens count: 1 for those, 0 for padding and what is taken for it."""
        return mask_BS if self.skipped is None else mask_BS * (ids_BS != self.skipped)

    def of(self, counted_BT: np.ndarray) -> np.ndarray:
        """Return the positions of all tokens: those that count go on, whatever lies between."""
        return np.where(counted_BT, np.cumsum(counted_BT, axis=1) + (self.first - 1), self.padding)


def positions_from_scheme(scheme: str, generation: Generation) -> Positions:
    """Return how `scheme` counts. A decoder that an encoder feeds counts as in forward in `generate` as well."""
    if scheme == TRANSFORMERS_GENERATE and generation.start_token_id is None:
        return Positions(first=0, padding=0, skipped=None)
    # The row of padding has the number of the id that the network takes for padding.
    padding = generation.pad_position
    return Positions(first=generation.first_position, padding=padding, skipped=padding)
