"""ONNX Runtime as an engine, on any of its providers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from rpln_runtime.engines.base import Shapes
from rpln_runtime.engines.memory import HostMemory, Memory
from rpln_runtime.errors import ProviderError

_NUMPY_NAMES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(int64)": "int64",
}
"""The names that numpy has for ONNX Runtime's types."""


class OnnxRuntimeEngine:
    """A graph that ONNX Runtime runs.

    Attributes:
        session: the `onnxruntime.InferenceSession`.
        profiles: empty, because the session takes every size that the graph takes.
    """

    profiles = ()

    def __init__(self, session: Any, *, device: str = "cpu") -> None:
        """Wrap a session whose memory is on `device`, "cpu" or "cuda", as ONNX Runtime calls it."""
        self.session = session
        self._device = device

    @property
    def inputs(self) -> dict[str, str]:
        """The dtype of each input, by numpy's name."""
        return _dtypes(self.session.get_inputs())

    @property
    def outputs(self) -> dict[str, str]:
        """The dtype of each output, by numpy's name."""
        return _dtypes(self.session.get_outputs())

    @property
    def shapes(self) -> Shapes:
        """The shape of each input and output."""
        nodes = [*self.session.get_inputs(), *self.session.get_outputs()]
        # ONNX Runtime has a name, or None, for an axis that the graph leaves open, and no axes for an unknown rank.
        return {
            node.name: tuple(size if isinstance(size, int) else None for size in node.shape) or None for node in nodes
        }

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Run the graph on `feeds` and return the outputs called `names`, in arrays that no later run overwrites.

        Raises ProviderError where ONNX Runtime fails.
        """
        binding = self.session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in names:
            # ONNX Runtime takes memory from its pool, and the arrays keep it. New memory of numpy's would be slower.
            binding.bind_output(name, "cpu")
        _run_bound(self.session, binding)
        return [value.numpy() for value in binding.get_outputs()]

    def bind(self) -> "OnnxRuntimeBinding":
        """Return a new binding, in which nothing is bound yet."""
        return OnnxRuntimeBinding(self.session, self._device)

    def allocate(self, size: int, dtype: np.dtype[Any]) -> Memory:
        """Allocate memory for `size` elements, and return it: numpy's on the CPU, ONNX Runtime's on another device."""
        return HostMemory(size, dtype) if self._device == "cpu" else OnnxRuntimeMemory(size, dtype, self._device)


class OnnxRuntimeBinding:
    """The memory that the inputs and outputs of a session are bound to. See `rpln_runtime.engines.base.Binding`."""

    def __init__(self, session: Any, device: str) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._device = device

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        """Bind an input to `array`, which is contiguous and in host memory."""
        self._binding.bind_cpu_input(name, array)

    def bind_cpu_output(self, name: str, array: np.ndarray) -> None:
        """Bind an output to `array`, which is contiguous and in host memory."""
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def bind_input(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Bind an input to memory of the engine."""
        self._binding.bind_input(name, self._device, 0, element, shape, pointer)

    def bind_output(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Bind an output to memory of the engine."""
        self._binding.bind_output(name, self._device, 0, element, shape, pointer)

    def run(self) -> None:
        """Run the graph. The outputs are complete when this returns."""
        _run_bound(self._session, self._binding)


class OnnxRuntimeMemory:
    """A block of memory that ONNX Runtime allocated on a device.

    It is tested with ONNX Runtime's memory on the CPU, and not on any other device yet.
    """

    def __init__(self, size: int, dtype: np.dtype[Any], device: str) -> None:
        import onnxruntime

        self._values = onnxruntime.OrtValue.ortvalue_from_shape_and_type([max(size, 1)], dtype.type, device, 0)
        self.size = size
        self.pointer: int = self._values.data_ptr()

    def read(self) -> np.ndarray:
        """Return a copy of the elements in host memory."""
        return np.asarray(self._values.numpy())

    def write(self, values: np.ndarray) -> None:
        """Copy `values` to the device."""
        self._values.update_inplace(values)


def _run_bound(session: Any, binding: Any) -> None:
    """Run the session. Raises ProviderError where ONNX Runtime fails."""
    try:
        session.run_with_iobinding(binding)
    except Exception as error:  # ONNX Runtime's classes have no base but this one
        raise ProviderError(
            f"ONNX Runtime failed to run the graph ({error}). Check the bundle (rpln validate), and the free memory."
        ) from error


def _dtypes(nodes: Sequence[Any]) -> dict[str, str]:
    return {node.name: _NUMPY_NAMES.get(node.type, node.type) for node in nodes}
