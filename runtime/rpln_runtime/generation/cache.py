"""The cache of keys and values: two blocks in turn, of which a step reads one and writes the other.

Shapes of a tensor: (rows, heads, tokens, head_size).
"""

from typing import Any, Final

import numpy as np

from rpln_runtime.errors import ManifestError
from rpln_runtime.generation.memory import ELEMENTS, Block
from rpln_runtime.manifest import Graph, TensorSpec

PAST: Final = "past_key_values."
PRESENT: Final = "present."
CROSS: Final = "cross_key_values."


class Cache:
    """Keys and values of every layer. It is empty until a graph has written it."""

    def __init__(self, graph: Graph, device: str) -> None:
        spec, self._presents = key_values(graph, PRESENT)
        self._pasts = [PAST + name.removeprefix(PRESENT) for name in self._presents]
        self._heads, self._head_size = int(spec.shape[1]), int(spec.shape[3])
        self._current, self._spare = (Block(self._presents, spec.dtype, device) for _ in range(2))
        self._length = 0

    def bind(self, binding: Any, *, rows: int, new: int, reads: bool) -> None:
        """Have a graph write the cache with `new` tokens more; with `reads`, after it has read what there is."""
        if reads:
            if not self._length:
                self._current.reshape((rows, self._heads, 0, self._head_size))
            self._current.bind_inputs(binding, self._pasts)
        self._spare.reshape((rows, self._heads, self._length + new, self._head_size))
        self._spare.bind_outputs(binding, self._presents)

    def turn(self) -> None:
        """Take what the graph has written for the cache from now on."""
        self._current, self._spare = self._spare, self._current
        self._length = self._current.shape[2]

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows: any of those there are, in any order, any number of times."""
        self._spare.gather(self._current, rows)
        self.turn()


def key_values(graph: Graph, prefix: str) -> tuple[TensorSpec, list[str]]:
    """Return one of the tensors of `graph` whose names start with `prefix`, and all their names in order.

    Raises ManifestError for tensors that differ in shape or dtype, or are no floats that a cache may hold.
    """
    specs = [spec for spec in (*graph.inputs, *graph.outputs) if spec.name.startswith(prefix)]
    first = specs[0]
    for spec in specs:
        rank = len(spec.shape)
        if spec.dtype not in ELEMENTS or rank != 4 or not all(isinstance(spec.shape[axis], int) for axis in (1, 3)):
            raise ManifestError(
                f"{spec.name} of {graph.path} is {spec.dtype} {spec.shape}, expected one of {', '.join(ELEMENTS)} of "
                "shape (batch, heads, tokens, head_size) with fixed heads and head_size. Export the checkpoint again."
            )
        if (spec.dtype, spec.shape) != (first.dtype, first.shape):
            raise ManifestError(
                f"{spec.name} of {graph.path} is {spec.dtype} {spec.shape}, {first.name} is {first.dtype} "
                f"{first.shape}: expected the same. Export the checkpoint again."
            )
    return first, [spec.name for spec in specs]
