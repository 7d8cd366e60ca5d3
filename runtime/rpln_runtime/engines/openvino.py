"""OpenVINO's own runtime as an engine, on the CPU. It runs many encoders faster than ONNX Runtime."""

import ctypes
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from rpln_runtime.engines.base import CACHE_INPUTS, Shapes
from rpln_runtime.engines.memory import HostMemory, Memory
from rpln_runtime.engines.openvino_state import fuses_attention, keep_cache
from rpln_runtime.errors import ManifestError, MissingExtraError, ProviderError
from rpln_runtime.external_data import NotOnnxError, external_files

CAPACITY: Final = "CPU_RUNTIME_CACHE_CAPACITY"
"""OpenVINO's option for how many kernels it keeps that it prepared for the sizes of earlier batches."""
CACHE: Final = 256
"""The limit that is set: with OpenVINO's own of 5,000, memory grows over thousands of batches of different sizes."""
OPTIONS = {
    # By default OpenVINO would compute in bf16 on some CPUs, whatever the graph says.
    "INFERENCE_PRECISION_HINT": "f32",
    "PERFORMANCE_HINT": "LATENCY",
    CAPACITY: str(CACHE),
}
"""The options that every graph is compiled with."""
PRIMITIVES: Final = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""The variable of the environment that says how many kernels oneDNN keeps, on which OpenVINO builds. It is read at the
first run of a process."""
KEPT_PRIMITIVES: Final = 64
"""The number that is set, unless the user sets one: OpenVINO keeps kernels itself, and with oneDNN's own 1,024 memory
grows over thousands of batches of different sizes."""
CACHE_TYPE: Final = "KV_CACHE_PRECISION"
"""OpenVINO's option for the type of a cache that it keeps itself. By default, it rounds keys and values to 8 bits."""


class OpenVinoEngine:
    """A graph that OpenVINO compiles for the CPU.

    Attributes:
        profiles: empty, because the compiled graph takes every size that the graph takes.
    """

    profiles = ()

    def __init__(self, path: Path, *, threads: int | None, install: str) -> None:
        """Compile the ONNX file `path`. A graph with a cache is compiled later, when it is clear who keeps the cache.

        `threads` is the most threads to use; None means one for each core. Raises MissingExtraError, which names the
        command `install`, if OpenVINO is not installed, and ManifestError for a graph that it cannot compile.
        """
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError(f"OpenVINO is not installed ({error}). Run: {install}") from error
        options = dict(OPTIONS)
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        os.environ.setdefault(PRIMITIVES, str(KEPT_PRIMITIVES))
        self._core, self._options = openvino.Core(), options
        self._refusing = partial(_refusing, path, install)
        self._lock = threading.Lock()
        self._compiled: Any = None
        with self._refusing(), _weights_beside(path) as beside:
            self._graph = self._core.read_model(str(beside))
            if not any(name.startswith(CACHE_INPUTS) for name in self.inputs):
                self._graph = self._compiled = self._compile(self._graph)
        self._requests = threading.local()

    @property
    def inputs(self) -> dict[str, str]:
        """The dtype of each input, by numpy's name."""
        return _dtypes(self._graph.inputs)

    @property
    def outputs(self) -> dict[str, str]:
        """The dtype of each output, by numpy's name."""
        return _dtypes(self._graph.outputs)

    @property
    def shapes(self) -> Shapes:
        """The shape of each input and output."""
        return {
            name: _shape(port.partial_shape)
            for port in (*self._graph.inputs, *self._graph.outputs)
            for name in port.names
        }

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Run the graph on `feeds` and return the outputs called `names`, in arrays that no later run overwrites.

        Raises ProviderError where OpenVINO fails.
        """
        request = self._request()
        _infer(request, {name: np.ascontiguousarray(array) for name, array in feeds.items()})
        # Copies: the next run overwrites the tensors of the request.
        return [np.array(request.get_tensor(name).data) for name in names]

    def bind(self) -> "OpenVinoBinding":
        """Return a new binding, in which nothing is bound yet."""
        return OpenVinoBinding(self._stateless())

    def keep(self, cache: Mapping[str, str], *, int8: bool) -> Callable[[], "OpenVinoBinding"]:
        """Return a function that returns bindings to a graph that keeps its cache. See `StatefulEngine.keep`."""
        with self._refusing():
            kept = keep_cache(self._graph, cache)
            if int8 and not fuses_attention(kept):
                raise ProviderError(
                    "OpenVINO has a cache in 8 bits for attention that it fuses, but this graph has none that it can. "
                    "Leave int8_cache out, or export the checkpoint again with --optimize standard."
                )
            compiled = self._compile(kept, {CACHE_TYPE: "u8" if int8 else "f32"})
        return partial(OpenVinoBinding, compiled)

    def allocate(self, size: int, dtype: np.dtype[Any]) -> Memory:
        """Allocate host memory for `size` elements, and return it."""
        return HostMemory(size, dtype)

    def _request(self) -> Any:
        """Return this thread's request. A request runs one batch at a time, so each thread has its own."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._stateless().create_infer_request()
        return self._requests.own

    def _stateless(self) -> Any:
        """Return the compiled graph whose cache, if it has one, is among its inputs and outputs."""
        with self._lock, self._refusing():
            if self._compiled is None:
                self._compiled = self._compile(self._graph)
            return self._compiled

    def _compile(self, graph: Any, options: Mapping[str, str] | None = None) -> Any:
        """Compile a graph for the CPU, with these options beside those of the engine."""
        return self._core.compile_model(graph, "CPU", {**self._options, **(options or {})})


class OpenVinoBinding:
    """The memory that the inputs and outputs of a graph are bound to. See `rpln_runtime.engines.base.Binding`."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._ports = {name: port for port in (*compiled.inputs, *compiled.outputs) for name in port.names}
        self._arrays: dict[str, np.ndarray] = {}  # OpenVINO's tensors do not keep the arrays that they share

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        """Bind an input to `array`, which is contiguous and in host memory."""
        self._bind(name, array, array.shape)

    def bind_cpu_output(self, name: str, array: np.ndarray) -> None:
        """Bind an output to `array`, which is contiguous and in host memory."""
        self._bind(name, array, array.shape)

    def bind_input(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:  # noqa: ARG002 # the port has the type
        """Bind an input to memory of the engine."""
        self._bind(name, _bytes_at(pointer, self._ports[name].element_type.size, shape), shape)

    def bind_output(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:  # noqa: ARG002 # the port has the type
        """Bind an output to memory of the engine."""
        self._bind(name, _bytes_at(pointer, self._ports[name].element_type.size, shape), shape)

    def run(self) -> None:
        """Run the graph. The outputs are complete when this returns."""
        _infer(self._request, {})

    def _bind(self, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        """Let the request read or write `array`, whose memory holds a tensor of this shape, and of the graph's type."""
        from openvino import Tensor

        port = self._ports[name]
        try:
            self._request.set_tensor(port, Tensor(array, shape, port.element_type))
        except RuntimeError as error:
            raise ProviderError(
                f"OpenVINO does not take memory of the shape {shape} for {name!r} ({error}). Check the bundle (rpln "
                "validate)."
            ) from error
        self._arrays[name] = array  # after it: until then, the request reads the array before


@contextmanager
def _refusing(path: Path, install: str) -> Iterator[None]:
    """Raise ManifestError where OpenVINO cannot read or compile the ONNX file `path`."""
    import openvino

    try:
        yield
    except (RuntimeError, NotOnnxError, OSError) as error:
        raise ManifestError(
            f"OpenVINO {openvino.__version__} cannot compile {path}: {error}. "
            f"Choose provider='cpu', or update it: {install} --upgrade"
        ) from error


@contextmanager
def _weights_beside(path: Path) -> Iterator[Path]:
    """Yield the path of the ONNX file with its weights beside it, which is `path` itself unless these are links.

    OpenVINO follows no links that leave the folder, as the hub's cache has them. Weights that are such links get a name
    in a temporary folder, or a copy if that is on another device.
    """
    linked = [name for name in external_files(path) if Path(name).name == name and (path.parent / name).is_symlink()]
    if not linked:
        yield path
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in (path.name, *linked):
            real, own = os.path.realpath(path.parent / name), Path(folder, name)
            try:
                own.hardlink_to(real)
            except OSError:
                shutil.copyfile(real, own)
        yield Path(folder, path.name)


def _infer(request: Any, feeds: Mapping[str, np.ndarray]) -> None:
    """Run a request on `feeds`, and on what else is bound to it. Raises ProviderError where OpenVINO fails."""
    try:
        # Not infer(): with one thread, OpenVINO 2026.4 returns from it as if nothing had failed.
        request.start_async(feeds, share_inputs=True)
        request.wait()
    except RuntimeError as error:
        raise ProviderError(
            f"OpenVINO failed to run the graph ({error}). Check the bundle (rpln validate), and the free memory."
        ) from error


def _bytes_at(pointer: int, item_size: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the memory of a tensor, whose elements have `item_size` bytes, as an array of bytes."""
    size = item_size * math.prod(shape)
    # OpenVINO takes no array without elements for a tensor without elements.
    return np.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(pointer))


def _shape(partial: Any) -> tuple[int | None, ...] | None:
    """Return a shape of OpenVINO's as the engines' interface has it."""
    return tuple(size.get_length() if size.is_static else None for size in partial) if partial.rank.is_static else None


def _dtypes(ports: Sequence[Any]) -> dict[str, str]:
    """Return the dtype of each port, by every name that the port has.

    One of its names is that of the tensor in the ONNX file; the others come from OpenVINO's compiler.
    """
    return {name: port.element_type.to_dtype().name for port in ports for name in port.names}
