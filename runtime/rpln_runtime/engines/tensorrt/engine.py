"""A TensorRT engine behind the interface of all engines."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rpln_runtime.engines.base import Bundle
from rpln_runtime.engines.manifest import EngineManifest, Profile
from rpln_runtime.engines.profiles import unknown_axes
from rpln_runtime.engines.tensorrt.checks import Checked, check_engines
from rpln_runtime.engines.tensorrt.device import DeviceMemory
from rpln_runtime.engines.tensorrt.execution import Execution, Place
from rpln_runtime.engines.tensorrt.loading import load_engine
from rpln_runtime.errors import InputError, ProviderError
from rpln_runtime.manifest import Graph


def open_tensorrt(bundle: Bundle, *, builder: str, module: str, install: str) -> "TensorRtEngine":
    """Open the engine that `builder` made for a graph of `bundle`, on the device that is CUDA's current one.

    Raises ProviderError for one that cannot be loaded here, with what to do, and MissingExtraError, naming the command
    `install`, without NVIDIA's packages.
    """
    _check_outputs(bundle.graph, builder)
    return TensorRtEngine(bundle, check_engines(bundle, builder=builder, module=module, install=install))


class TensorRtEngine:
    """An engine on a GPU. Each thread has a context of its own, and its own memory for inputs and outputs.

    Attributes:
        manifest: what the engine says of itself.
    """

    def __init__(self, bundle: Bundle, checked: Checked) -> None:
        self.manifest: EngineManifest = checked.engine
        self._bundle = bundle
        self._trt, self._cuda = checked.trt, checked.cuda
        self._device: int = self._cuda("cudaGetDevice")
        self._loaded = load_engine(checked.trt, bundle, checked.engine)
        self._threads = threading.local()
        self._lock = threading.Lock()

    @property
    def inputs(self) -> dict[str, str]:
        """The dtype of each input."""
        return {name: dtype.name for name, dtype in self._loaded.inputs.items()}

    @property
    def outputs(self) -> dict[str, str]:
        """The dtype of each output."""
        return {name: dtype.name for name, dtype in self._loaded.outputs.items()}

    @property
    def profiles(self) -> Sequence[Profile]:
        """The sizes that it takes, of which one row must fit."""
        return self.manifest.profiles

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """The outputs called `names`, in arrays of their own. Raises InputError for sizes that no profile takes."""
        for name in names:
            if self.outputs[name] == "bfloat16":
                raise InputError(f"{name} is bfloat16, which numpy has not. Name the outputs that you need.")
        execution = self._execution()
        inputs = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        shapes = execution.prepare({name: array.shape for name, array in inputs.items()})
        outputs = {name: np.empty(shapes[name], self.outputs[name]) for name in names}
        execution.run(inputs, outputs)
        return [outputs[name] for name in names]

    def bind(self) -> "TensorRtBinding":
        """A binding in which nothing is bound."""
        return TensorRtBinding(self)

    def allocate(self, size: int, dtype: np.dtype[Any]) -> DeviceMemory:
        """Memory for `size` elements on the device."""
        self._cuda("cudaSetDevice", self._device)
        return DeviceMemory(self._cuda, size, dtype)

    def run_bound(self, inputs: Mapping[str, np.ndarray | Place], outputs: Mapping[str, np.ndarray | Place]) -> None:
        """Run on tensors of the host and of the device; see `Execution.run`."""
        self._execution().run(inputs, outputs)

    def _execution(self) -> Execution:
        if not hasattr(self._threads, "own"):
            # A thread begins with the first device, whichever the others use.
            self._cuda("cudaSetDevice", self._device)
            with self._lock:
                self._threads.own = Execution(self._trt, self._cuda, self._loaded, self._bundle, self.manifest)
        execution: Execution = self._threads.own
        return execution


class TensorRtBinding:
    """Where the tensors of an engine's runs lie."""

    def __init__(self, engine: TensorRtEngine) -> None:
        self._engine = engine
        self._inputs: dict[str, np.ndarray | Place] = {}
        self._outputs: dict[str, np.ndarray | Place] = {}

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        """Have the graph read `array`, contiguous. It is read when the graph runs."""
        self._inputs[name] = array

    def bind_cpu_output(self, name: str, array: np.ndarray) -> None:
        """Have the graph write into `array`, contiguous."""
        self._outputs[name] = array

    def bind_input(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Have the graph read memory of the engine."""
        self._inputs[name] = Place(element, shape, pointer)

    def bind_output(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Have the graph write memory of the engine."""
        self._outputs[name] = Place(element, shape, pointer)

    def run(self) -> None:
        """Run the graph; what it gives is there when this returns."""
        self._engine.run_bound(self._inputs, self._outputs)


def _check_outputs(graph: Graph, builder: str) -> None:
    """Refuse a graph that gives as much as its inputs hold of something: memory is bound before it runs."""
    for name, axes in unknown_axes(graph).items():
        raise ProviderError(
            f"the output {name!r} of {graph.path} has as many {', '.join(axes)} as its inputs hold, which provider "
            f"{builder!r} cannot know beforehand. Export the checkpoint with --logits positions or all."
        )
