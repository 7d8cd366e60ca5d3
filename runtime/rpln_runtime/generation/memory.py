"""Tensors that stay where the graph runs: bound by pointer, written by one run and read by the next, never copied.

On the CPU the memory is numpy's. On another device it is onnxruntime's, and a gather takes the way over the host; that
part has been run with onnxruntime's memory on the CPU, and on no other device yet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np


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


class Block:
    """Tensors of one shape and dtype, one after the other in one piece of memory."""

    def __init__(self, names: Sequence[str], dtype: str, device: str) -> None:
        self.shape: tuple[int, ...] = (0,)
        self._names = names
        self._element = ELEMENTS[dtype]
        self._device = device
        self._memory = _allocate(0, self._element.storage, device)

    def reshape(self, shape: tuple[int, ...]) -> None:
        """Make room for tensors of `shape`; what the block held is lost. Memory grows by doubling, so seldom."""
        size = len(self._names) * math.prod(shape)
        if size > self._memory.size:
            self._memory = _allocate(max(size, 2 * self._memory.size), self._element.storage, self._device)
        self.shape = shape

    def bind_inputs(self, binding: Any, names: Sequence[str]) -> None:
        """Have the graph behind `binding` read the tensors, as inputs of these names."""
        self._bind(binding.bind_input, names)

    def bind_outputs(self, binding: Any, names: Sequence[str]) -> None:
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

    def _bind(self, bind: Any, names: Sequence[str]) -> None:
        size = math.prod(self.shape) * self._element.storage.itemsize
        pointer = self._memory.pointer
        for name in names:
            bind(name, self._device, 0, self._element.onnx_type, self.shape, pointer)
            pointer += size


class Memory(Protocol):
    """A flat piece of memory: `size` in elements, `pointer` on its device."""

    size: int
    pointer: int

    def read(self) -> np.ndarray:
        """Return what it holds."""

    def write(self, values: np.ndarray) -> None:
        """Put `values`, an altered array that `read` returned, in its place."""


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


class DeviceMemory:
    """Memory of onnxruntime on a device."""

    def __init__(self, size: int, dtype: np.dtype[Any], device: str) -> None:
        import onnxruntime

        self._values = onnxruntime.OrtValue.ortvalue_from_shape_and_type([max(size, 1)], dtype.type, device, 0)
        self.size = size
        self.pointer: int = self._values.data_ptr()

    def read(self) -> np.ndarray:
        """Return a copy on the host."""
        return np.asarray(self._values.numpy())

    def write(self, values: np.ndarray) -> None:
        """Copy `values` to the device."""
        self._values.update_inplace(values)


def _allocate(size: int, dtype: np.dtype[Any], device: str) -> Memory:
    return HostMemory(size, dtype) if device == "cpu" else DeviceMemory(size, dtype, device)
