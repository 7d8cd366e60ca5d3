"""The interface of engines: what runs a graph, with numpy arrays in and numpy arrays out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from rpln_runtime.engines.manifest import Profile
from rpln_runtime.engines.memory import Memory
from rpln_runtime.manifest import Graph, Manifest


class Bundle(NamedTuple):
    """A graph of a bundle, as engines need it.

    Attributes:
        folder: the folder of the bundle.
        manifest: the description of the bundle.
        graph: the description of the graph.
    """

    folder: Path
    manifest: Manifest
    graph: Graph


Shapes: TypeAlias = dict[str, tuple[int | None, ...] | None]
"""The size of each axis of tensors, by name. None for an axis that the graph leaves open, and for a whole shape."""


class Engine(Protocol):
    """A graph that is ready to run. Threads may share it."""

    @property
    def inputs(self) -> dict[str, str]:
        """The dtype of each input, by numpy's name."""

    @property
    def outputs(self) -> dict[str, str]:
        """The dtype of each output, by numpy's name."""

    @property
    def shapes(self) -> Shapes:
        """The shape of each input and output."""

    @property
    def profiles(self) -> Sequence[Profile]:
        """The sizes that the engine was built for, of which one profile must fit.

        Empty if the engine takes every size that the graph takes.
        """

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Run the graph on `feeds` and return the outputs called `names`, in arrays that no later run overwrites."""


class Binding(Protocol):
    """The memory that the inputs and outputs of a graph are bound to.

    A tensor stays bound for all later runs. A binding belongs to one thread. Where a method takes memory of the engine,
    `element` is the number of the dtype in ONNX (`TensorProto.DataType`), and `pointer` is an address in memory that
    the engine allocated.
    """

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        """Bind an input to `array`, which is contiguous and in host memory. It is read in each run."""

    def bind_cpu_output(self, name: str, array: np.ndarray) -> None:
        """Bind an output to `array`, which is contiguous and in host memory. It is written in each run."""

    def bind_input(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Bind an input to memory of the engine."""

    def bind_output(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Bind an output to memory of the engine."""

    def run(self) -> None:
        """Run the graph. The outputs are complete when this returns."""


@runtime_checkable
class BindableEngine(Engine, Protocol):
    """An engine whose inputs and outputs can be bound to memory where it runs, such as that of a decoder's cache."""

    def bind(self) -> Binding:
        """Return a new binding, in which nothing is bound yet."""

    def allocate(self, size: int, dtype: np.dtype[Any]) -> Memory:
        """Allocate memory for `size` elements where the engine runs, and return it."""


CACHE_INPUTS: Final = "past_key_values."
"""The beginning of the names of a graph's inputs for earlier keys and values."""
ROWS: Final = "rows"
"""The input of a graph that keeps its cache, which says which row of the cache each row of a run continues.

It is int32, with a number for each row of the run. The first run finds an empty cache, whatever rows it names.
"""


@runtime_checkable
class StatefulEngine(BindableEngine, Protocol):
    """An engine that can keep the cache of a decoder itself, from one run of a binding to the next."""

    def keep(self, cache: Mapping[str, str], *, int8: bool) -> Callable[[], Binding]:
        """Return a function that returns new bindings, each of which keeps a cache of its own that is empty at first.

        `cache` has the name of an output for the name of each input that gets its value in the next run. These are no
        longer inputs and outputs of the graph, and ROWS is an input. With `int8`, the cache is rounded to 8 bits
        wherever the engine can. Raises ProviderError where it can nowhere.
        """
