"""The cache of keys and values: two sets of blocks in turn, of which a step reads one and writes the other.

Shapes of a tensor: (rows, heads, tokens, head_size). Layers may differ in heads, where some were pruned, and in dtype,
where one reaches beyond fp16: tensors of one kind share a block.
"""

from typing import Final, NamedTuple

import numpy as np

from rpln_runtime.engines.base import Binding
from rpln_runtime.engines.memory import Allocate
from rpln_runtime.errors import ManifestError
from rpln_runtime.generation.memory import ELEMENTS, Block
from rpln_runtime.manifest import Graph, TensorSpec

PAST: Final = "past_key_values."
PRESENT: Final = "present."
CROSS: Final = "cross_key_values."


class Cache:
    """Keys and values of every layer. It is empty until a graph has written it."""

    def __init__(self, graph: Graph, allocate: Allocate) -> None:
        kinds = kinds_from_graph(graph, PRESENT)
        self._current, self._spare = (KeyValues(kinds, allocate) for _ in range(2))
        self._length = 0

    def bind(self, binding: Binding, *, rows: int, new: int, reads: bool) -> None:
        """Have a graph write the cache with `new` tokens more; with `reads`, after it has read what there is."""
        if reads:
            if not self._length:
                self._current.reshape(rows=rows, tokens=0)
            self._current.bind_inputs(binding, PAST)
        self._spare.reshape(rows=rows, tokens=self._length + new)
        self._spare.bind_outputs(binding, PRESENT)

    def turn(self) -> None:
        """Take what the graph has written for the cache from now on."""
        self._current, self._spare = self._spare, self._current
        self._length = self._current.tokens

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows: any of those there are, in any order, any number of times."""
        self._spare.gather(self._current, rows)
        self.turn()


class Kind(NamedTuple):
    """What tensors of one block have in common."""

    dtype: str
    heads: int
    head_size: int


Kinds = dict[Kind, list[str]]
"""Names of tensors by their kind, without the prefix that says which side of a graph they are on."""


class KeyValues:
    """Tensors of all layers, a block for each kind of them."""

    def __init__(self, kinds: Kinds, allocate: Allocate) -> None:
        self.tokens = 0
        self.blocks = [(kind, names, Block(names, kind.dtype, allocate)) for kind, names in kinds.items()]

    def reshape(self, *, rows: int, tokens: int) -> None:
        """Make room; what was held is lost."""
        self.tokens = tokens
        for kind, _, block in self.blocks:
            block.reshape((rows, kind.heads, tokens, kind.head_size))

    def bind_inputs(self, binding: Binding, prefix: str) -> None:
        """Have the graph behind `binding` read the tensors as its inputs with this prefix."""
        for _, names, block in self.blocks:
            block.bind_inputs(binding, [prefix + name for name in names])

    def bind_outputs(self, binding: Binding, prefix: str) -> None:
        """Have the graph behind `binding` write the tensors as its outputs with this prefix."""
        for _, names, block in self.blocks:
            block.bind_outputs(binding, [prefix + name for name in names])

    def gather(self, source: "KeyValues", rows: np.ndarray) -> None:
        """Take `rows`, along the first axis, of the tensors of `source`, which are of the same kinds."""
        self.tokens = source.tokens
        for (_, _, block), (_, _, other) in zip(self.blocks, source.blocks, strict=True):
            block.gather(other, rows)


def kinds_from_graph(graph: Graph, prefix: str) -> Kinds:
    """The tensors of `graph` whose names start with `prefix`. Raises ManifestError for one that no cache may hold."""
    kinds: Kinds = {}
    for spec in (*graph.inputs, *graph.outputs):
        if spec.name.startswith(prefix):
            kinds.setdefault(_kind(spec, graph), []).append(spec.name.removeprefix(prefix))
    return kinds


def _kind(spec: TensorSpec, graph: Graph) -> Kind:
    fixed = [spec.shape[axis] for axis in (1, 3)] if len(spec.shape) == 4 else []
    if spec.dtype not in ELEMENTS or not fixed or not all(isinstance(size, int) for size in fixed):
        raise ManifestError(
            f"{spec.name} of {graph.path} is {spec.dtype} {spec.shape}, expected one of {', '.join(ELEMENTS)} of shape "
            "(batch, heads, tokens, head_size) with fixed heads and head_size. Export the checkpoint again."
        )
    heads, head_size = (int(size) for size in fixed)
    return Kind(spec.dtype, heads, head_size)
