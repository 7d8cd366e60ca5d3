"""Memory that keeps tensors from one run of a graph to the next, on the device that runs the graph."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np


class Memory(Protocol):
    """A block of memory.

    Attributes:
        size: the number of elements.
        pointer: the address on the device.
    """

    size: int
    pointer: int

    def read(self) -> np.ndarray:
        """Return the elements as an array in host memory. It may be a copy."""

    def write(self, values: np.ndarray) -> None:
        """Store `values`, an array that `read` returned and that was altered since."""


Allocate: TypeAlias = Callable[[int, np.dtype[Any]], Memory]
"""A function that allocates memory for a number of elements of a dtype."""


class HostMemory:
    """A block of host memory that numpy allocated."""

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self._values = np.empty(max(size, 1), dtype)
        self.size = size
        self.pointer = self._values.ctypes.data

    def read(self) -> np.ndarray:
        """Return the elements themselves, not a copy."""
        return self._values

    def write(self, values: np.ndarray) -> None:
        """Do nothing: `values` is the memory itself."""
