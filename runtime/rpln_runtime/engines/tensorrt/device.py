"""The GPU that is current, over cuda.bindings.runtime: memory, streams and captured graphs, errors as ProviderError.

Names of functions and their arguments are those of NVIDIA's CUDA Runtime API.
"""

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from rpln_runtime.errors import ProviderError


class Cuda:
    """CUDA's functions by name: each returns its one result, or None. `api` is cuda.bindings.runtime."""

    def __init__(self, api: Any) -> None:
        self.api = api

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Call `function`. Raises ProviderError for any status but success."""
        status, *results = getattr(self.api, function)(*arguments)
        if status != self.api.cudaError_t.cudaSuccess:
            raise ProviderError(
                f"CUDA refused {function}: {self._message(status)}. Check the device, its free memory and its driver "
                "(rpln doctor), or choose provider='cpu'."
            )
        return results[0] if results else None

    def check_driver(self) -> None:
        """Raise ProviderError where there is no driver, or no device."""
        status, count = self.api.cudaGetDeviceCount()
        if status != self.api.cudaError_t.cudaSuccess or not count:
            reason = "it finds no device" if count == 0 else self._message(status)
            raise ProviderError(
                f"there is no NVIDIA driver here that serves a GPU ({reason}), which an engine needs. Install it, look "
                "at rpln doctor, or choose provider='cpu'."
            )

    def capability(self) -> str:
        """The compute capability of the current device, as sm89."""
        device = self("cudaGetDevice")
        attributes = self.api.cudaDeviceAttr
        parts = (attributes.cudaDevAttrComputeCapabilityMajor, attributes.cudaDevAttrComputeCapabilityMinor)
        return "sm" + "".join(str(self("cudaDeviceGetAttribute", part, device)) for part in parts)

    def _message(self, status: Any) -> str:
        _, text = self.api.cudaGetErrorString(status)
        return f"{status.name}, {text.decode()}"


class Buffer:
    """Bytes that grow by doubling, on the device, or page-locked on the host.

    Attributes:
        pointer: their address, another one after they have grown.
        size: how many there are.
    """

    def __init__(self, cuda: Cuda, *, pinned: bool = False) -> None:
        self.pointer = 0
        self.size = 0
        self._cuda = cuda
        self._functions = ("cudaMallocHost", "cudaFreeHost") if pinned else ("cudaMalloc", "cudaFree")
        self._free: Callable[[], Any] = lambda: None

    def reserve(self, size: int) -> int:
        """Make room for `size` bytes and return the address; what was held is lost where they grow."""
        if size > self.size or not self.size:
            self._free()
            size = max(size, 2 * self.size, 1)
            allocate, free = self._functions
            self.pointer = int(self._cuda(allocate, size))
            self.size = size
            self._free = weakref.finalize(self, getattr(self._cuda.api, free), self.pointer)
        return self.pointer


class DeviceMemory:
    """Flat memory for `size` elements; `pointer` is its address on the device."""

    def __init__(self, cuda: Cuda, size: int, dtype: np.dtype[Any]) -> None:
        self.size = size
        self._cuda = cuda
        self._dtype = dtype
        self._buffer = Buffer(cuda)
        self.pointer = self._buffer.reserve(size * dtype.itemsize)

    def read(self) -> np.ndarray:
        """Return a copy on the host."""
        values = np.empty(self.size, self._dtype)
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda("cudaMemcpy", values.ctypes.data, self.pointer, values.nbytes, kind)
        return values

    def write(self, values: np.ndarray) -> None:
        """Copy `values` to the device."""
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda("cudaMemcpy", self.pointer, values.ctypes.data, values.nbytes, kind)


class Stream:
    """Work in order, apart from that of other streams. `handle` is CUDA's own."""

    def __init__(self, cuda: Cuda) -> None:
        self.handle = cuda("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking)
        self._cuda = cuda
        weakref.finalize(self, cuda.api.cudaStreamDestroy, self.handle)

    def copy(self, target: int, source: int, size: int, *, to_device: bool) -> None:
        """Copy `size` bytes between host and device when their turn comes."""
        kinds = self._cuda.api.cudaMemcpyKind
        kind = kinds.cudaMemcpyHostToDevice if to_device else kinds.cudaMemcpyDeviceToHost
        self._cuda("cudaMemcpyAsync", target, source, size, kind, self.handle)

    def wait(self) -> None:
        """Return when all is done."""
        self._cuda("cudaStreamSynchronize", self.handle)

    def capture(self, work: Callable[[], bool]) -> "CapturedGraph | None":
        """Record what `work` puts in the stream instead of doing it; None where that cannot be recorded."""
        # Of this thread alone: others may allocate meanwhile.
        mode = self._cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda("cudaStreamBeginCapture", self.handle, mode)
        complete = work()
        status, graph = self._cuda.api.cudaStreamEndCapture(self.handle)
        recorded = complete and status == self._cuda.api.cudaError_t.cudaSuccess
        return CapturedGraph(self._cuda, graph) if recorded else None


class CapturedGraph:
    """Work that was recorded from a stream, with the addresses that it had."""

    def __init__(self, cuda: Cuda, graph: Any) -> None:
        self._cuda = cuda
        self._executable = cuda("cudaGraphInstantiate", graph, 0)
        cuda("cudaGraphDestroy", graph)
        weakref.finalize(self, cuda.api.cudaGraphExecDestroy, self._executable)

    def launch(self, stream: Stream) -> None:
        """Put all of it in `stream` at once."""
        self._cuda("cudaGraphLaunch", self._executable, stream.handle)


class Staged:
    """One tensor's own memory: on the device, and page-locked on the host, where copies start and end."""

    def __init__(self, cuda: Cuda) -> None:
        self.device = Buffer(cuda)
        self._host = Buffer(cuda, pinned=True)

    def upload(self, array: np.ndarray, stream: Stream) -> int:
        """Copy `array`, contiguous, to the device and return its address there."""
        host, device = self._host.reserve(array.nbytes), self.device.reserve(array.nbytes)
        ctypes.memmove(host, array.ctypes.data, array.nbytes)
        stream.copy(device, host, array.nbytes, to_device=True)
        return device

    def download(self, size: int, stream: Stream) -> None:
        """Copy the first `size` bytes to the host, for `take` after the stream has done it."""
        stream.copy(self._host.reserve(size), self.device.pointer, size, to_device=False)

    def take(self, array: np.ndarray) -> None:
        """Fill `array`, contiguous, with what was downloaded."""
        ctypes.memmove(array.ctypes.data, self._host.pointer, array.nbytes)
