"""TRACE_METHODS: how a network's layers get into its graph. No torch here, so that `--help` can list the names."""

from collections.abc import Mapping
from typing import Final

LAYERS: Final = 3
"""How many layers show all there is to see: a first, a middle and a last one."""

REPEAT: Final = "repeat"
FULL: Final = "full"

TRACE_METHODS: Final[Mapping[str, int | None]] = {REPEAT: LAYERS, FULL: None}
"""The number of layers that are traced, of which the last is then repeated; None where all are traced."""
