"""CUDA's current GPU, through cuda.bindings.runtime: memory, streams and captured graphs.

The names of functions and their arguments are those of NVIDIA's CUDA Runtime API. A function that fails raises
ProviderError.
"""

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from rpln_runtime.errors import ProviderError


class Cuda:
    """CUDA's functions, called by name. Each returns its result, or None if it has none.

    Attributes:
        api: the module cuda.bindings.runtime.
    """

    def __init__(self, api: Any) -> None:
        self.api = api

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Call `function` with `arguments` and return its result. Raises ProviderError unless CUDA reports success."""
        status, *results = getattr(self.api, function)(*arguments)
        if status != self.api.cudaError_t.cudaSuccess:
            raise ProviderError(
                f"CUDA's {function} failed: {self._message(status)}. Check the device, its free memory and its driver "
                "(rpln doctor), or choose provider='cpu'."
            )
        return results[0] if results else None

    def check_driver(self) -> None:
        """Raise ProviderError if there is no driver or no GPU."""
        status, count = self.api.cudaGetDeviceCount()
        if status != self.api.cudaError_t.cudaSuccess or not count:
            reason = "CUDA finds none" if count == 0 else self._message(status)
            raise ProviderError(
                f"an engine needs a GPU with an NVIDIA driver, and there is none here ({reason}). Install the driver, "
                "look at rpln doctor, or choose provider='cpu'."
            )

    def capability(self) -> str:
        """Return the compute capability of the current GPU, such as "sm89"."""
        device = self("cudaGetDevice")
        attributes = self.api.cudaDeviceAttr
        parts = (attributes.cudaDevAttrComputeCapabilityMajor, attributes.cudaDevAttrComputeCapabilityMinor)
        return "sm" + "".join(str(self("cudaDeviceGetAttribute", part, device)) for part in parts)

    def _message(self, status: Any) -> str:
        _, text = self.api.cudaGetErrorString(status)
        return f"{status.name}, {text.decode()}"


class Buffer:
    """A block of bytes that grows by doubling, on the device or in page-locked host memory.

    Attributes:
        pointer: the address, which changes when the block grows.
        size: the size in bytes.
    """

    def __init__(self, cuda: Cuda, *, pinned: bool = False) -> None:
        self.pointer = 0
        self.size = 0
        self._cuda = cuda
        self._functions = ("cudaMallocHost", "cudaFreeHost") if pinned else ("cudaMalloc", "cudaFree")
        self._free: Callable[[], Any] = lambda: None

    def reserve(self, size: int) -> int:
        """Make room for `size` bytes and return the address. When the block grows, its content is lost."""
        if size > self.size or not self.size:
            self._free()
            size = max(size, 2 * self.size, 1)
            allocate, free = self._functions
            self.pointer = int(self._cuda(allocate, size))
            self.size = size
            self._free = weakref.finalize(self, getattr(self._cuda.api, free), self.pointer)
        return self.pointer


class DeviceMemory:
    """A block of device memory. See `rpln_runtime.engines.memory.Memory`.

    Attributes:
        size: the number of elements.
        pointer: the address on the device.
    """

    def __init__(self, cuda: Cuda, size: int, dtype: np.dtype[Any]) -> None:
        self.size = size
        self._cuda = cuda
        self._dtype = dtype
        self._buffer = Buffer(cuda)
        self.pointer = self._buffer.reserve(size * dtype.itemsize)

    def read(self) -> np.ndarray:
        """Return a copy of the elements in host memory."""
        values = np.empty(self.size, self._dtype)
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda("cudaMemcpy", values.ctypes.data, self.pointer, values.nbytes, kind)
        return values

    def write(self, values: np.ndarray) -> None:
        """Copy `values` to the device."""
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda("cudaMemcpy", self.pointer, values.ctypes.data, values.nbytes, kind)


class Stream:
    """A CUDA stream: its work is done in order, independently of other streams.

    Attributes:
        handle: CUDA's own stream.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.handle = cuda("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking)
        self._cuda = cuda
        weakref.finalize(self, cuda.api.cudaStreamDestroy, self.handle)

    def copy(self, target: int, source: int, size: int, *, to_device: bool) -> None:
        """Enqueue a copy of `size` bytes from the address `source` to the address `target`."""
        kinds = self._cuda.api.cudaMemcpyKind
        kind = kinds.cudaMemcpyHostToDevice if to_device else kinds.cudaMemcpyDeviceToHost
        self._cuda("cudaMemcpyAsync", target, source, size, kind, self.handle)

    def wait(self) -> None:
        """Wait until all work in the stream is done."""
        self._cuda("cudaStreamSynchronize", self.handle)

    def capture(self, work: Callable[[], bool]) -> "CapturedGraph | None":
        """Record what `work` enqueues, instead of doing it, and return it as a graph.

        Returns None if `work` returns False or CUDA cannot record it.
        """
        # Record the work of this thread only, so that other threads may allocate memory meanwhile.
        mode = self._cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda("cudaStreamBeginCapture", self.handle, mode)
        complete = work()
        status, graph = self._cuda.api.cudaStreamEndCapture(self.handle)
        recorded = complete and status == self._cuda.api.cudaError_t.cudaSuccess
        return CapturedGraph(self._cuda, graph) if recorded else None


class CapturedGraph:
    """A CUDA graph: work that was recorded from a stream. It reads and writes the addresses of the recording."""

    def __init__(self, cuda: Cuda, graph: Any) -> None:
        self._cuda = cuda
        self._executable = cuda("cudaGraphInstantiate", graph, 0)
        cuda("cudaGraphDestroy", graph)
        weakref.finalize(self, cuda.api.cudaGraphExecDestroy, self._executable)

    def launch(self, stream: Stream) -> None:
        """Enqueue the whole graph in `stream`."""
        self._cuda("cudaGraphLaunch", self._executable, stream.handle)


class Staged:
    """The memory of one tensor: a buffer on the device, and a page-locked one on the host.

    Copies between the array of a caller and the device go through the one on the host.

    Attributes:
        device: the buffer on the device.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.device = Buffer(cuda)
        self._host = Buffer(cuda, pinned=True)

    def upload(self, array: np.ndarray, stream: Stream) -> int:
        """Copy `array`, which is contiguous, to the device, and return its address there."""
        host, device = self._host.reserve(array.nbytes), self.device.reserve(array.nbytes)
        ctypes.memmove(host, array.ctypes.data, array.nbytes)
        stream.copy(device, host, array.nbytes, to_device=True)
        return device

    def download(self, size: int, stream: Stream) -> None:
        """Enqueue a copy of the first `size` bytes to the host. After the stream has done it, `take` has them."""
        stream.copy(self._host.reserve(size), self.device.pointer, size, to_device=False)

    def take(self, array: np.ndarray) -> None:
        """Fill `array`, which is contiguous, with what was downloaded."""
        ctypes.memmove(array.ctypes.data, self._host.pointer, array.nbytes)
