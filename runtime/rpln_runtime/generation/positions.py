"""Positions: which row of the position table each token of a batch gets, by its attention mask.

"forward" counts as the model was trained, from the row after padding's. transformers' `generate` (4.57.6 and 5.23)
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
    """The position of a sequence's first token, and that of padding."""

    first: int
    padding: int

    def of(self, mask_BT: np.ndarray) -> np.ndarray:
        """Return the positions of the tokens behind `mask_BT`: real ones count on, whatever padding lies between."""
        return np.where(mask_BT, np.cumsum(mask_BT, axis=1) + (self.first - 1), self.padding)


def positions_from_scheme(scheme: str, generation: Generation) -> Positions:
    """Return how `scheme` counts. A decoder that an encoder feeds counts as in forward in `generate` as well."""
    if scheme == TRANSFORMERS_GENERATE and generation.start_token_id is None:
        return Positions(first=0, padding=0)
    return Positions(first=generation.first_position, padding=generation.pad_position)
