"""What one thread runs an engine with: an execution context, a stream, memory for its tensors, and CUDA graphs.

A run with the shapes and addresses of an earlier one is captured as a CUDA graph when it comes for the second time, and
is launched as that graph from then on. The rules are those of "CUDA Graphs" in NVIDIA's best practices for TensorRT: a
graph depends on the context that it was captured from, which must not change later, so each graph has a context of its
own; and the first run of new shapes is never captured, because it does more than later ones. TensorRT RTX captures
graphs by itself, and is told to.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from rpln_runtime.engines.base import Bundle
from rpln_runtime.engines.manifest import EngineManifest
from rpln_runtime.engines.tensorrt.device import Buffer, CapturedGraph, Cuda, Staged, Stream
from rpln_runtime.engines.tensorrt.loading import Dtype, Loaded
from rpln_runtime.engines.tensorrt.profiles import Shapes, choose_profile
from rpln_runtime.errors import ProviderError

_LAUNCHES: Final = 32
"""The number of latest runs, by shapes and addresses, that are remembered and whose graphs are kept."""


class Place(NamedTuple):
    """A tensor in device memory.

    Attributes:
        element: the number of its dtype in ONNX (`TensorProto.DataType`).
        shape: its shape.
        pointer: its address.
    """

    element: int
    shape: tuple[int, ...]
    pointer: int


Tensors: TypeAlias = Mapping[str, np.ndarray | Place]
"""Tensors by name: contiguous arrays in host memory, or places in device memory."""


@dataclass(slots=True)
class Launch:
    """A run, by its shapes and addresses, that may come again.

    Attributes:
        uses: how often it has come.
        context: the execution context that the graph depends on; None before it is captured.
        graph: the captured graph; None if there is none.
    """

    uses: int = 0
    context: Any = None
    graph: CapturedGraph | None = None


class Execution:
    """What one thread runs an engine with."""

    def __init__(self, trt: Any, cuda: Cuda, loaded: Loaded, bundle: Bundle, engine: EngineManifest) -> None:
        self._trt = trt
        self._loaded = loaded
        self._specs = bundle.graph.inputs
        self._engine = engine
        self._stream = Stream(cuda)
        self._scratch = Buffer(cuda)
        self._staged = {name: Staged(cuda) for name in (*loaded.inputs, *loaded.outputs)}
        self._launches: OrderedDict[Any, Launch] = OrderedDict()
        # TensorRT RTX, which has CudaGraphStrategy, captures graphs by itself.
        self._captures = not hasattr(trt, "CudaGraphStrategy")
        self._context = self._new_context()
        self._shapes: Shapes = {}
        self._profile = 0
        self._given: dict[str, tuple[int, ...]] = {}

    def prepare(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Take inputs of these `shapes` from now on, and return the shapes of all outputs.

        Raises InputError if no profile of the engine takes them.
        """
        if shapes != self._shapes:
            self._profile = choose_profile(self._engine, self._specs, shapes)
            self._shapes = {}
            self._configure(self._context, shapes)
            self._given = {name: tuple(self._context.get_tensor_shape(name)) for name in self._loaded.outputs}
            assert all(size >= 0 for shape in self._given.values() for size in shape), self._given
            self._shapes = dict(shapes)
        return self._given

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        """Run the engine on `inputs` and write into `outputs`. This returns when the outputs are complete.

        Outputs of the engine that are not in `outputs` are computed and dropped. Raises InputError if no profile takes
        the shapes of the inputs.
        """
        given = self.prepare({name: tensor.shape for name, tensor in inputs.items()})
        addresses = {name: self._read(name, tensor) for name, tensor in inputs.items()}
        for name, shape in given.items():
            addresses[name] = self._write(name, shape, outputs.get(name))
        self._launch(addresses)
        arrays = {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}
        for name, array in arrays.items():
            self._staged[name].download(array.nbytes, self._stream)
        self._stream.wait()
        for name, array in arrays.items():
            self._staged[name].take(array)

    def _read(self, name: str, tensor: np.ndarray | Place) -> int:
        """Return the device address of an input. An array is copied to the device."""
        if isinstance(tensor, np.ndarray):
            return self._staged[name].upload(tensor, self._stream)
        assert tensor.element == self._loaded.inputs[name].element, name
        return tensor.pointer

    def _write(self, name: str, shape: tuple[int, ...], tensor: np.ndarray | Place | None) -> int:
        """Return the device address that an output of this shape is written to."""
        assert tensor is None or tensor.shape == shape, (name, shape)
        if isinstance(tensor, Place):
            assert tensor.element == self._loaded.outputs[name].element, name
            return tensor.pointer
        return self._staged[name].device.reserve(_bytes(shape, self._loaded.outputs[name]))

    def _launch(self, addresses: Mapping[str, int]) -> None:
        """Enqueue a run: as a CUDA graph if there is one, else kernel by kernel."""
        seen = self._seen((tuple(self._shapes.items()), tuple(addresses.items())))
        seen.uses += 1
        if seen.graph is not None:
            seen.graph.launch(self._stream)
        elif self._captures and seen.uses == 2:
            seen.context = self._new_context()
            self._configure(seen.context, self._shapes)
            self._enqueue(seen.context, addresses)
            seen.graph = self._stream.capture(lambda: bool(seen.context.execute_async_v3(int(self._stream.handle))))
        else:
            self._enqueue(self._context, addresses)

    def _seen(self, key: Any) -> Launch:
        """Return the entry of a run in the list of the latest runs, which is new if the run is not in the list."""
        launch = self._launches.setdefault(key, Launch())
        self._launches.move_to_end(key)
        if len(self._launches) > _LAUNCHES:
            self._launches.popitem(last=False)
        return launch

    def _new_context(self) -> Any:
        cuda_engine = self._loaded.cuda_engine
        if self._captures:
            # A thread runs one context at a time, so all of its contexts can share their working memory.
            size = cuda_engine.device_memory_size_v2
            context = cuda_engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            if context is not None:
                context.set_device_memory(self._scratch.reserve(size), size)
        else:
            config = cuda_engine.create_runtime_config()
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = cuda_engine.create_execution_context(config)
        self._check(context is not None, "gives no execution context")
        return context

    def _configure(self, context: Any, shapes: Shapes) -> None:
        stream = int(self._stream.handle)
        if context.active_optimization_profile != self._profile:
            self._check(
                context.set_optimization_profile_async(self._profile, stream), f"refuses profile {self._profile}"
            )
        for name, shape in shapes.items():
            self._check(context.set_input_shape(name, shape), f"refuses {name} of shape {shape}")

    def _enqueue(self, context: Any, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            self._check(context.set_tensor_address(name, address), f"refuses the memory of {name}")
        self._check(context.execute_async_v3(int(self._stream.handle)), "did not start")

    def _check(self, done: Any, what: str) -> None:
        if not done:
            raise ProviderError(
                f"{self._engine.plan.path} {what}: {' '.join(self._loaded.log.errors) or 'no reason given.'} "
                "Check the device and its free memory (rpln doctor), or choose provider='cpu'."
            )


def _bytes(shape: tuple[int, ...], dtype: Dtype) -> int:
    return int(np.prod(shape)) * dtype.size
