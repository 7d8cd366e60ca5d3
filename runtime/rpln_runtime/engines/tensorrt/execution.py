"""What one thread runs an engine with: a context, a stream, memory for its tensors, and CUDA graphs.

A launch that comes a second time, of the same shapes at the same addresses, is captured, and launched as one graph from
then on. NVIDIA's guide ("CUDA Graphs" in TensorRT's best practices) sets the rules: a graph depends on the context it
was captured from, which must not be changed afterwards, so each has one of its own; and the first launch of new shapes
is never captured, as it does more than later ones. TensorRT RTX does all this itself.
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
"""How many launches are remembered, and as many graphs kept."""


class Place(NamedTuple):
    """A tensor on the device: its dtype's number in ONNX, its shape and its address."""

    element: int
    shape: tuple[int, ...]
    pointer: int


Tensors: TypeAlias = Mapping[str, np.ndarray | Place]
"""Contiguous arrays on the host, and tensors on the device, by name."""


@dataclass(slots=True)
class Launch:
    """A launch that has been seen: how often, and its graph with the context that it depends on."""

    uses: int = 0
    context: Any = None
    graph: CapturedGraph | None = None


class Execution:
    """An engine as one thread runs it."""

    def __init__(self, trt: Any, cuda: Cuda, loaded: Loaded, bundle: Bundle, engine: EngineManifest) -> None:
        self._trt = trt
        self._loaded = loaded
        self._specs = bundle.graph.inputs
        self._engine = engine
        self._stream = Stream(cuda)
        self._scratch = Buffer(cuda)
        self._staged = {name: Staged(cuda) for name in (*loaded.inputs, *loaded.outputs)}
        self._launches: OrderedDict[Any, Launch] = OrderedDict()
        # Where NVIDIA's runtime captures graphs, it is told to, and this does not.
        self._captures = not hasattr(trt, "CudaGraphStrategy")
        self._context = self._new_context()
        self._shapes: Shapes = {}
        self._profile = 0
        self._given: dict[str, tuple[int, ...]] = {}

    def prepare(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Take inputs of `shapes` from now on, and return the shapes of all outputs.

        Raises InputError where no profile of the engine takes them.
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
        """Run on `inputs` into `outputs`; outputs that are not among them are computed and left. Waits for the end."""
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
        if isinstance(tensor, np.ndarray):
            return self._staged[name].upload(tensor, self._stream)
        assert tensor.element == self._loaded.inputs[name].element, name
        return tensor.pointer

    def _write(self, name: str, shape: tuple[int, ...], tensor: np.ndarray | Place | None) -> int:
        assert tensor is None or tensor.shape == shape, (name, shape)
        if isinstance(tensor, Place):
            assert tensor.element == self._loaded.outputs[name].element, name
            return tensor.pointer
        return self._staged[name].device.reserve(_bytes(shape, self._loaded.outputs[name]))

    def _launch(self, addresses: Mapping[str, int]) -> None:
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
        launch = self._launches.setdefault(key, Launch())
        self._launches.move_to_end(key)
        if len(self._launches) > _LAUNCHES:
            self._launches.popitem(last=False)
        return launch

    def _new_context(self) -> Any:
        cuda_engine = self._loaded.cuda_engine
        if self._captures:
            # One runs at a time, so that all of a thread's can work in the same memory.
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
