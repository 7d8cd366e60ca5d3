"""Blocks of memory for tensors that stay where the graph runs: one run writes them and the next reads them.

They are bound by their address and never copied, except when rows are selected. Then memory that is not the host's is
copied to the host and back.
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
    """A float type.

    Attributes:
        onnx_type: its number in ONNX (`TensorProto.DataType`).
        storage: an unsigned integer of the same size, because numpy has no bfloat16.
    """

    onnx_type: int
    storage: np.dtype[Any]


ELEMENTS: Final = {
    "float32": Element(1, np.dtype(np.uint32)),
    "float16": Element(10, np.dtype(np.uint16)),
    "bfloat16": Element(16, np.dtype(np.uint16)),
}
"""The float types that a cache may have, by name."""


Bind: TypeAlias = Callable[[str, int, tuple[int, ...], int], None]
"""A method of a binding, which takes a name, a type's number in ONNX, a shape and an address."""


class Block:
    """Tensors of the same shape and dtype, one after another in one block of memory.

    Attributes:
        shape: the shape of each tensor.
    """

    def __init__(self, names: Sequence[str], dtype: str, allocate: Allocate) -> None:
        self.shape: tuple[int, ...] = (0,)
        self._names = names
        self._element = ELEMENTS[dtype]
        self._allocate = allocate
        self._memory = allocate(0, self._element.storage)

    def reshape(self, shape: tuple[int, ...]) -> None:
        """Make room for tensors of `shape`. The content is lost. Memory grows by doubling, so that it seldom grows."""
        size = len(self._names) * math.prod(shape)
        if size > self._memory.size:
            self._memory = self._allocate(max(size, 2 * self._memory.size), self._element.storage)
        self.shape = shape

    def bind_inputs(self, binding: Binding, names: Sequence[str]) -> None:
        """Bind the tensors as the inputs called `names`."""
        self._bind(binding.bind_input, names)

    def bind_outputs(self, binding: Binding, names: Sequence[str]) -> None:
        """Bind the tensors as the outputs called `names`."""
        self._bind(binding.bind_output, names)

    def gather(self, source: "Block", rows: np.ndarray) -> None:
        """Copy `rows`, along the first axis, of the tensors of `source`."""
        self.reshape((len(rows), *source.shape[1:]))
        values = self._memory.read()
        source.take(rows, self._rows(values))
        self._memory.write(values)

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy `rows` of every tensor to `out`, which is (tensors, rows, elements of a row)."""
        # mode="raise" would make numpy write to a buffer of its own first.
        np.take(self._rows(self._memory.read()), rows, axis=1, out=out, mode="clip")

    def _rows(self, values: np.ndarray) -> np.ndarray:
        """Return the tensors in `values` as (tensors, rows, elements of a row)."""
        count, batch = len(self._names), self.shape[0]
        per_row = math.prod(self.shape[1:])
        return values[: count * batch * per_row].reshape(count, batch, per_row)

    def _bind(self, bind: Bind, names: Sequence[str]) -> None:
        size = math.prod(self.shape) * self._element.storage.itemsize
        pointer = self._memory.pointer
        for name in names:
            bind(name, self._element.onnx_type, self.shape, pointer)
            pointer += size
