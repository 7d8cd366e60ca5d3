"""Memory that tensors stay in from one run to the next, on the device where their graph runs."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np


class Memory(Protocol):
    """A flat piece of memory: `size` in elements, `pointer` on its device."""

    size: int
    pointer: int

    def read(self) -> np.ndarray:
        """Return what it holds."""

    def write(self, values: np.ndarray) -> None:
        """Put `values`, an altered array that `read` returned, in its place."""


Allocate: TypeAlias = Callable[[int, np.dtype[Any]], Memory]
"""Gives memory for so many elements of a dtype."""


class HostMemory:
    """Memory of numpy."""

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self._values = np.empty(max(size, 1), dtype)
        self.size = size
        self.pointer = self._values.ctypes.data

    def read(self) -> np.ndarray:
        """Return the memory itself."""
        return self._values

    def write(self, values: np.ndarray) -> None:
        """Do nothing: `values` are the memory itself."""
