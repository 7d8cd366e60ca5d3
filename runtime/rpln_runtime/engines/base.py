"""What runs a loaded graph, behind one interface: numpy arrays in, numpy arrays out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rpln_runtime.engines.manifest import Profile
from rpln_runtime.engines.memory import Memory
from rpln_runtime.manifest import Graph, Manifest


class Bundle(NamedTuple):
    """The bundle that a graph is opened from: its folder, what it says of itself, and of the graph."""

    folder: Path
    manifest: Manifest
    graph: Graph


class Engine(Protocol):
    """A graph that is ready to run. Threads may share it."""

    @property
    def inputs(self) -> dict[str, str]:
        """The dtype of each input."""

    @property
    def outputs(self) -> dict[str, str]:
        """The dtype of each output."""

    @property
    def profiles(self) -> Sequence[Profile]:
        """The sizes that it takes, of which one row must fit; empty where it takes all that the graph does."""

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """The outputs called `names`, in arrays that outlive the next run."""


class Binding(Protocol):
    """Where the tensors of a run lie. What is bound stays so for the runs that follow; each thread has its own.

    `element` is a dtype's number in ONNX, `pointer` an address in memory that the engine allocated.
    """

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        """Have the graph read `array`, contiguous and on the host. It is read when the graph runs."""

    def bind_cpu_output(self, name: str, array: np.ndarray) -> None:
        """Have the graph write into `array`, contiguous and on the host."""

    def bind_input(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Have the graph read memory of the engine."""

    def bind_output(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Have the graph write memory of the engine."""

    def run(self) -> None:
        """Run the graph; what it gives is there when this returns."""


@runtime_checkable
class BindableEngine(Engine, Protocol):
    """An engine whose tensors may stay where it runs, as those of a cache do."""

    def bind(self) -> Binding:
        """A binding in which nothing is bound."""

    def allocate(self, size: int, dtype: np.dtype[Any]) -> Memory:
        """Memory for `size` elements where the engine runs."""
