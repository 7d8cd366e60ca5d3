"""What runs a loaded graph, behind one interface: numpy arrays in, numpy arrays out."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

_NUMPY_NAMES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(int64)": "int64",
}


class Engine(Protocol):
    """A graph that is ready to run. Threads may share it."""

    @property
    def inputs(self) -> dict[str, str]:
        """The dtype of each input."""

    @property
    def outputs(self) -> dict[str, str]:
        """The dtype of each output."""

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """The outputs called `names`, in arrays that outlive the next run."""


class OnnxRuntimeEngine:
    """ONNX Runtime's session.

    Attributes:
        session: the session itself, for callers that bind memory of theirs.
    """

    def __init__(self, session: Any) -> None:
        self.session = session

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


def _dtypes(nodes: Sequence[Any]) -> dict[str, str]:
    return {node.name: _NUMPY_NAMES.get(node.type, node.type) for node in nodes}
