"""OpenVINO's own runtime, on the CPU: the faster one for many an encoder (`pip install "rpln-runtime[openvino]"`)."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from rpln_runtime.errors import ManifestError, MissingExtraError

_PRECISION: Final = "f32"
"""Its default on some CPUs is bf16, whatever the graph says."""


class OpenVinoEngine:
    """A graph compiled for the CPU.

    Attributes:
        profiles: none: it takes all sizes.
    """

    profiles = ()

    def __init__(self, path: Path, *, threads: int | None, install: str) -> None:
        """Compile the ONNX file `path` for so many threads (None: OpenVINO's choice, one a core).

        Raises MissingExtraError, naming the command `install`, without OpenVINO, ManifestError for a graph that it
        cannot compile.
        """
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError(f"OpenVINO is not installed ({error}). Run: {install}") from error
        options = {"INFERENCE_PRECISION_HINT": _PRECISION, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            self._compiled = openvino.Core().compile_model(str(path), "CPU", options)
        except RuntimeError as error:
            raise ManifestError(
                f"OpenVINO {openvino.__version__} cannot compile {path}: {error}. "
                f"Choose provider='cpu', or update it: {install} --upgrade"
            ) from error
        self._requests = threading.local()

    @property
    def inputs(self) -> dict[str, str]:
        """The dtype of each input."""
        return _dtypes(self._compiled.inputs)

    @property
    def outputs(self) -> dict[str, str]:
        """The dtype of each output."""
        return _dtypes(self._compiled.outputs)

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """The outputs called `names`, in arrays that outlive the next run."""
        request = self._request()
        request.infer({name: np.ascontiguousarray(array) for name, array in feeds.items()}, share_inputs=True)
        # The request writes its next results over these.
        return [np.array(request.get_tensor(name).data) for name in names]

    def _request(self) -> Any:
        """A request runs one batch at a time, so that each thread has its own."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        return self._requests.own


def _dtypes(ports: Sequence[Any]) -> dict[str, str]:
    """By every name that a port has: that of an output, and that of the node which the compiler made it of."""
    return {name: port.element_type.to_dtype().name for port in ports for name in port.names}
