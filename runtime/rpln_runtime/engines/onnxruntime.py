"""ONNX Runtime's session as an engine, on whichever of its providers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from rpln_runtime.engines.memory import HostMemory, Memory

_NUMPY_NAMES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(int64)": "int64",
}


class OnnxRuntimeEngine:
    """A session. `device` is where its tensors are kept, as onnxruntime calls it.

    Attributes:
        session: the session itself, for callers that bind memory of theirs.
        profiles: none: it takes all sizes.
    """

    profiles = ()

    def __init__(self, session: Any, *, device: str = "cpu") -> None:
        self.session = session
        self._device = device

    @property
    def inputs(self) -> dict[str, str]:
        """The dtype of each input."""
        return _dtypes(self.session.get_inputs())

    @property
    def outputs(self) -> dict[str, str]:
        """The dtype of each output."""
        return _dtypes(self.session.get_outputs())

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """The outputs called `names`, in arrays that outlive the next run."""
        binding = self.session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in names:
            # Into memory of onnxruntime's pool, which the arrays then share: fresh memory of numpy's own is slower.
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

    def bind(self) -> "OnnxRuntimeBinding":
        """A binding in which nothing is bound."""
        return OnnxRuntimeBinding(self.session, self._device)

    def allocate(self, size: int, dtype: np.dtype[Any]) -> Memory:
        """Memory for `size` elements: numpy's on the CPU, else onnxruntime's on the device."""
        return HostMemory(size, dtype) if self._device == "cpu" else OnnxRuntimeMemory(size, dtype, self._device)


class OnnxRuntimeBinding:
    """Where the tensors of a session's runs lie."""

    def __init__(self, session: Any, device: str) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._device = device

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        """Have the graph read `array`. It is read when the graph runs."""
        self._binding.bind_cpu_input(name, array)

    def bind_cpu_output(self, name: str, array: np.ndarray) -> None:
        """Have the graph write into `array`."""
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def bind_input(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Have the graph read memory of the engine."""
        self._binding.bind_input(name, self._device, 0, element, shape, pointer)

    def bind_output(self, name: str, element: int, shape: tuple[int, ...], pointer: int) -> None:
        """Have the graph write memory of the engine."""
        self._binding.bind_output(name, self._device, 0, element, shape, pointer)

    def run(self) -> None:
        """Run the graph."""
        self._session.run_with_iobinding(self._binding)


class OnnxRuntimeMemory:
    """Memory of onnxruntime on a device. It has been run with onnxruntime's memory on the CPU, and on no other yet."""

    def __init__(self, size: int, dtype: np.dtype[Any], device: str) -> None:
        import onnxruntime

        self._values = onnxruntime.OrtValue.ortvalue_from_shape_and_type([max(size, 1)], dtype.type, device, 0)
        self.size = size
        self.pointer: int = self._values.data_ptr()

    def read(self) -> np.ndarray:
        """Return a copy on the host."""
        return np.asarray(self._values.numpy())

    def write(self, values: np.ndarray) -> None:
        """Copy `values` to the device."""
        self._values.update_inplace(values)


def _dtypes(nodes: Sequence[Any]) -> dict[str, str]:
    return {node.name: _NUMPY_NAMES.get(node.type, node.type) for node in nodes}
