"""Tensors that stay where the graph runs: bound by pointer, written by one run and read by the next, never copied.

The memory is the engine's. Where that is not the host's, a gather takes the way over the host.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from rpln_runtime.engines.base import Binding
from rpln_runtime.engines.memory import Allocate


@dataclass(frozen=True, slots=True)
class Element:
    """A float type: its number in ONNX, and the unsigned integer of its size, as numpy has no bfloat16."""

    onnx_type: int
    storage: np.dtype[Any]


ELEMENTS: Final = {
    "float32": Element(1, np.dtype(np.uint32)),
    "float16": Element(10, np.dtype(np.uint16)),
    "bfloat16": Element(16, np.dtype(np.uint16)),
}


Bind: TypeAlias = Callable[[str, int, tuple[int, ...], int], None]


class Block:
    """Tensors of one shape and dtype, one after the other in one piece of memory."""

    def __init__(self, names: Sequence[str], dtype: str, allocate: Allocate) -> None:
        self.shape: tuple[int, ...] = (0,)
        self._names = names
        self._element = ELEMENTS[dtype]
        self._allocate = allocate
        self._memory = allocate(0, self._element.storage)

    def reshape(self, shape: tuple[int, ...]) -> None:
        """Make room for tensors of `shape`; what the block held is lost. Memory grows by doubling, so seldom."""
        size = len(self._names) * math.prod(shape)
        if size > self._memory.size:
            self._memory = self._allocate(max(size, 2 * self._memory.size), self._element.storage)
        self.shape = shape

    def bind_inputs(self, binding: Binding, names: Sequence[str]) -> None:
        """Have the graph behind `binding` read the tensors, as inputs of these names."""
        self._bind(binding.bind_input, names)

    def bind_outputs(self, binding: Binding, names: Sequence[str]) -> None:
        """Have the graph behind `binding` write the tensors, as outputs of these names."""
        self._bind(binding.bind_output, names)

    def gather(self, source: "Block", rows: np.ndarray) -> None:
        """Take `rows`, along the first axis, of the tensors of `source`."""
        self.reshape((len(rows), *source.shape[1:]))
        values = self._memory.read()
        source.take(rows, self._rows(values))
        self._memory.write(values)

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy `rows` of every tensor to `out`, (tensors, rows, elements of a row)."""
        # With the mode that checks them, numpy would write to a buffer of its own first.
        np.take(self._rows(self._memory.read()), rows, axis=1, out=out, mode="clip")

    def _rows(self, values: np.ndarray) -> np.ndarray:
        count, batch = len(self._names), self.shape[0]
        per_row = math.prod(self.shape[1:])
        return values[: count * batch * per_row].reshape(count, batch, per_row)

    def _bind(self, bind: Bind, names: Sequence[str]) -> None:
        size = math.prod(self.shape) * self._element.storage.itemsize
        pointer = self._memory.pointer
        for name in names:
            bind(name, self._element.onnx_type, self.shape, pointer)
            pointer += size
