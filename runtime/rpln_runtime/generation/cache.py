"""The cache of keys and values: two copies of them, of which a step reads one and writes the other.

An engine may keep the cache itself: then only the order of its rows is said here.

The shape of a tensor is (rows, heads, tokens, head_size). Layers may differ in their number of heads, if some were
pruned, and in dtype, if one leaves the range of fp16. The tensors of one kind are in one block of memory.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np

from rpln_runtime.engines.base import CACHE_INPUTS, ROWS, Binding, Engine, StatefulEngine
from rpln_runtime.engines.memory import Allocate
from rpln_runtime.errors import ManifestError
from rpln_runtime.generation.memory import ELEMENTS, Block
from rpln_runtime.manifest import Graph, TensorSpec

PAST: Final = CACHE_INPUTS
"""The beginning of the names of a graph's inputs for earlier keys and values."""
PRESENT: Final = "present."
"""The beginning of the names of a graph's outputs of keys and values."""
CROSS: Final = "cross_key_values."
"""The beginning of the names of the keys and values of cross-attention."""


class Cache:
    """The keys and values of every layer. The cache is empty until a graph has written it."""

    def __init__(self, graph: Graph, allocate: Allocate) -> None:
        kinds = kinds_from_graph(graph, PRESENT)
        self._current, self._spare = (KeyValues(kinds, allocate) for _ in range(2))
        self._length = 0

    def bind(self, binding: Binding, *, rows: int, new: int, reads: bool) -> None:
        """Bind the cache as what a graph writes, with `new` tokens more, and with `reads`, also as what it reads."""
        if reads:
            if not self._length:
                self._current.reshape(rows=rows, tokens=0)
            self._current.bind_inputs(binding, PAST)
        self._spare.reshape(rows=rows, tokens=self._length + new)
        self._spare.bind_outputs(binding, PRESENT)

    def turn(self) -> None:
        """Exchange the two copies: the next graph reads what this one has written."""
        self._current, self._spare = self._spare, self._current
        self._length = self._current.tokens

    def select(self, rows: np.ndarray) -> None:
        """Keep these rows, in this order. A row may be taken several times."""
        self._spare.gather(self._current, rows)
        self.turn()


class KeptCache:
    """A cache that the engine keeps itself: a run continues the rows that it is told."""

    def __init__(self, rows: int) -> None:
        self._rows_R = np.arange(rows, dtype=np.int32)

    def bind(self, binding: Binding, *, rows: int, new: int, reads: bool) -> None:  # noqa: ARG002 # the engine counts
        """Bind the rows that the next run continues."""
        binding.bind_cpu_input(ROWS, self._rows_R)

    def turn(self) -> None:
        """Continue every row in its place: that is where the run has left it."""
        self._rows_R = np.arange(len(self._rows_R), dtype=np.int32)

    def select(self, rows: np.ndarray) -> None:
        """Keep these rows, in this order. A row may be taken several times."""
        self._rows_R = self._rows_R[rows]


def bindings_that_keep(
    engine: Engine, inputs: Mapping[str, str], *, int8: bool = False
) -> Callable[[], Binding] | None:
    """Return a function that returns bindings that keep the cache of a graph; None if its engine keeps none.

    `inputs` are the dtypes of the graph's inputs by name. With `int8`, keys and values are rounded to 8 bits. Caches in
    other types than fp32 are not kept: an engine would not round keys and values to fp16, as the graph says.
    """
    cache = {name: dtype for name, dtype in inputs.items() if name.startswith(PAST)}
    if not isinstance(engine, StatefulEngine) or set(cache.values()) != {"float32"}:
        return None
    return engine.keep({name: PRESENT + name.removeprefix(PAST) for name in cache}, int8=int8)


class Kind(NamedTuple):
    """What the tensors of a block have in common.

    Attributes:
        dtype: the dtype by numpy's name, or "bfloat16".
        heads: the number of heads.
        head_size: the size of a head.
    """

    dtype: str
    heads: int
    head_size: int


Kinds = dict[Kind, list[str]]
"""The names of tensors by their kind, without the part that the names of inputs or outputs begin with."""


class KeyValues:
    """The keys and values of all layers, with one block of memory for each kind.

    Attributes:
        tokens: the number of tokens in each tensor.
        blocks: the kind, the names of the tensors and the memory of each block.
    """

    def __init__(self, kinds: Kinds, allocate: Allocate) -> None:
        self.tokens = 0
        self.blocks = [(kind, names, Block(names, kind.dtype, allocate)) for kind, names in kinds.items()]

    def reshape(self, *, rows: int, tokens: int) -> None:
        """Make room for so many rows and tokens. The content is lost."""
        self.tokens = tokens
        for kind, _, block in self.blocks:
            block.reshape((rows, kind.heads, tokens, kind.head_size))

    def bind_inputs(self, binding: Binding, prefix: str) -> None:
        """Bind the tensors as the inputs whose names begin with `prefix`."""
        for _, names, block in self.blocks:
            block.bind_inputs(binding, [prefix + name for name in names])

    def bind_outputs(self, binding: Binding, prefix: str) -> None:
        """Bind the tensors as the outputs whose names begin with `prefix`."""
        for _, names, block in self.blocks:
            block.bind_outputs(binding, [prefix + name for name in names])

    def gather(self, source: "KeyValues", rows: np.ndarray) -> None:
        """Copy `rows` of the tensors of `source`, which has the same kinds. A row may be taken several times."""
        self.tokens = source.tokens
        for (_, _, block), (_, _, other) in zip(self.blocks, source.blocks, strict=True):
            block.gather(other, rows)


def kinds_from_graph(graph: Graph, prefix: str) -> Kinds:
    """Return the tensors of `graph` whose names begin with `prefix`, by kind.

    Raises ManifestError for a tensor that is not one of keys or values.
    """
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
