"""A TensorRT engine with the interface of all engines."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rpln_runtime.engines.base import Bundle, Shapes
from rpln_runtime.engines.manifest import EngineManifest, Profile
from rpln_runtime.engines.profiles import unknown_axes
from rpln_runtime.engines.tensorrt.checks import Checked, check_engines
from rpln_runtime.engines.tensorrt.device import DeviceMemory
from rpln_runtime.engines.tensorrt.execution import Execution, Place
from rpln_runtime.engines.tensorrt.loading import load_engine
from rpln_runtime.errors import InputError, ProviderError
from rpln_runtime.manifest import Graph


def open_tensorrt(bundle: Bundle, *, builder: str, module: str, install: str) -> "TensorRtEngine":
    """Open the engine of a bundle's graph on CUDA's current GPU.

    Args:
        bundle: the graph and its bundle.
        builder: the TensorRT that built the engine, which is also the name of the provider.
        module: NVIDIA's Python module.
        install: the command that installs what is missing.

    Raises ProviderError, with what to do, if no engine can be loaded here, and MissingExtraError if a package is not
    installed.
    """
    _check_outputs(bundle.graph, builder)
    return TensorRtEngine(bundle, check_engines(bundle, builder=builder, module=module, install=install))


class TensorRtEngine:
    """An engine that is loaded on a GPU. Each thread has an execution context and memory of its own.

    Attributes:
        manifest: the description of the engine.
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
        """The dtype of each input, by numpy's name."""
        return {name: dtype.name for name, dtype in self._loaded.inputs.items()}

    @property
    def outputs(self) -> dict[str, str]:
        """The dtype of each output, by numpy's name."""
        return {name: dtype.name for name, dtype in self._loaded.outputs.items()}

    @property
    def shapes(self) -> Shapes:
        """The shape of each input and output."""
        found = {name: self._loaded.cuda_engine.get_tensor_shape(name) for name in (*self.inputs, *self.outputs)}
        return {name: tuple(None if size < 0 else int(size) for size in shape) for name, shape in found.items()}

    @property
    def profiles(self) -> Sequence[Profile]:
        """The sizes that the engine was built for, of which one profile must fit."""
        return self.manifest.profiles

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Run the engine on `feeds` and return the outputs called `names`.

        Raises InputError for sizes that no profile takes.
        """
        for name in names:
            if self.outputs[name] == "bfloat16":
                raise InputError(f"the output {name} is bfloat16, a type that numpy does not have: name other outputs.")
        execution = self._execution()
        inputs = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        shapes = execution.prepare({name: array.shape for name, array in inputs.items()})
        outputs = {name: np.empty(shapes[name], self.outputs[name]) for name in names}
        execution.run(inputs, outputs)
        return [outputs[name] for name in names]

    def bind(self) -> "TensorRtBinding":
        """Return a new binding, in which nothing is bound yet."""
        return TensorRtBinding(self)

    def allocate(self, size: int, dtype: np.dtype[Any]) -> DeviceMemory:
        """Allocate memory for `size` elements on the device, and return it."""
        self._cuda("cudaSetDevice", self._device)
        return DeviceMemory(self._cuda, size, dtype)

    def run_bound(self, inputs: Mapping[str, np.ndarray | Place], outputs: Mapping[str, np.ndarray | Place]) -> None:
        """Run the engine on tensors in host and device memory; see `Execution.run`."""
        self._execution().run(inputs, outputs)

    def _execution(self) -> Execution:
        """Return what this thread runs the engine with."""
        if not hasattr(self._threads, "own"):
            # In a new thread, CUDA's current device is the first one, not the one that the engine is on.
            self._cuda("cudaSetDevice", self._device)
            with self._lock:
                self._threads.own = Execution(self._trt, self._cuda, self._loaded, self._bundle, self.manifest)
        execution: Execution = self._threads.own
        return execution


class TensorRtBinding:
    """The memory that the inputs and outputs of an engine are bound to. See `rpln_runtime.engines.base.Binding`."""

    def __init__(self, engine: TensorRtEngine) -> None:
        self._engine = engine
        self._inputs: dict[str, np.ndarray | Place] = {}
        self._outputs: dict[str, np.ndarray | Place] = {}

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        """Bind an input to `array`, which is contiguous and in host memory."""
        self._inputs[name] = array

    def bind_cpu_output(self, name: str, array: np.ndarray) -> None:
        """Bind an output to `array`, which is contiguous and in host memory."""
        self._outputs[name] = array

    def bind_input(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Bind an input to memory of the engine."""
        self._inputs[name] = Place(element, shape, pointer)

    def bind_output(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Bind an output to memory of the engine."""
        self._outputs[name] = Place(element, shape, pointer)

    def run(self) -> None:
        """Run the engine. The outputs are complete when this returns."""
        self._engine.run_bound(self._inputs, self._outputs)


def _check_outputs(graph: Graph, builder: str) -> None:
    """Raise ProviderError for a graph with an output whose size depends on the values of the inputs."""
    for name, axes in unknown_axes(graph).items():
        raise ProviderError(
            f"the size of the output {name!r} of {graph.path} in {', '.join(axes)} depends on the values of inputs, "
            f"which provider {builder!r} does not allow. Export the checkpoint with --logits positions or all."
        )
