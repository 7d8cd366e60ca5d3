"""TRACE_METHODS: how a network's layers get into its graph. No torch here, so that `--help` can list the names."""

from collections.abc import Mapping
from typing import Final

LAYERS: Final = 3
"""The number of layers that are traced of a deep network: a first, a middle and a last one show how all are wired."""

REPEAT: Final = "repeat"
"""The method that traces LAYERS layers and repeats the last of them."""
FULL: Final = "full"
"""The method that traces every layer."""

TRACE_METHODS: Final[Mapping[str, int | None]] = {REPEAT: LAYERS, FULL: None}
"""The number of layers that are traced, of which the last is then repeated; None where all are traced."""
