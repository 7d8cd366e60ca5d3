"""EXTRAS: one row per optional part of the project, with what cannot be done without it and how it is installed."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from rpln_runtime.errors import MissingExtraError
from rpln_runtime.installing import extras_command


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """An extra of the distribution rpln-export.

    Attributes:
        name: what stands in brackets in `pip install "rpln-export[name]"`.
        distribution: the distribution that it installs.
        module: the module of that distribution that the project imports.
        cost: what cannot be done without it.
        beside: distributions that are installed with it.
        wheel_of_onnxruntime: whether it is one of the wheels that share the folder onnxruntime/, so that only one of
            them may be installed.
    """

    name: str
    distribution: str
    module: str
    cost: str
    beside: tuple[str, ...] = ()
    wheel_of_onnxruntime: bool = False

    @property
    def command(self) -> str:
        """The pip command that installs it."""
        return extras_command(self.name, distribution="rpln-export")


_ROWS: Final = (
    Extra(
        name="cpu",
        distribution="onnxruntime",
        module="onnxruntime",
        wheel_of_onnxruntime=True,
        cost="No graph can be validated, so nothing is exported; no bundle runs on the CPU.",
    ),
    Extra(
        name="gpu",
        distribution="onnxruntime-gpu",
        module="onnxruntime",
        wheel_of_onnxruntime=True,
        cost="No bundle runs on an NVIDIA GPU by ONNX Runtime.",
    ),
    Extra(
        name="tensorrt",
        distribution="tensorrt",
        module="tensorrt",
        beside=("cuda-bindings",),
        cost="No engine is built for the GPU at hand, nor run by TensorRT.",
    ),
    Extra(
        name="tensorrt-rtx",
        distribution="tensorrt-rtx",
        module="tensorrt_rtx",
        beside=("cuda-bindings",),
        cost="No engine is built on a machine without a GPU, nor run by TensorRT-RTX.",
    ),
    Extra(
        name="openvino",
        distribution="openvino",
        module="openvino",
        cost="OpenVINO is no candidate for the CPU target.",
    ),
    Extra(
        name="ray",
        distribution="ray",
        module="ray.data",
        cost="No corpus is answered on a Ray cluster.",
    ),
    Extra(
        name="serve",
        distribution="fastapi",
        module="ray.serve",
        beside=("prometheus-client", "psutil", "pydantic", "ray", "uvicorn"),
        cost="No bundle is served over HTTP (rpln serve).",
    ),
    Extra(
        name="tokenizer-op",
        distribution="onnxruntime-extensions",
        module="onnxruntime_extensions",
        cost="No graph of texts (--with-tokenizer) is made, and none runs here.",
    ),
    Extra(
        name="triton",
        distribution="tritonclient",
        module="tritonclient.grpc",
        beside=("grpcio", "packaging", "protobuf"),
        cost="No Triton repository is checked (rpln triton --check); writing one needs nothing.",
    ),
    Extra(
        name="peft",
        distribution="peft",
        module="peft",
        cost="No adapter is merged into the network it belongs to.",
    ),
    Extra(
        name="eval",
        distribution="seqeval",
        module="seqeval.metrics",
        beside=("scikit-learn", "scipy"),
        cost="No metric is computed (rpln eval).",
    ),
    Extra(
        name="optimum",
        distribution="optimum-onnx",
        module="optimum.onnxruntime",
        cost="Bundles are not loaded by Optimum's ORTModelFor* classes here, and Optimum exports nothing; both need "
        "transformers 4.57.",
    ),
)

EXTRAS: Final[dict[str, Extra]] = {row.name: row for row in _ROWS}


def require_extra(name: str) -> ModuleType:
    """Import the module of the extra `name`.

    Raises MissingExtraError, naming the pip command, when it is not installed. A broken installation raises its own
    ImportError.
    """
    extra = EXTRAS[name]
    try:
        return importlib.import_module(extra.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{extra.module}.".startswith(f"{error.name}."):
            raise
        raise MissingExtraError(f"{extra.distribution} is not installed. {extra.cost} Run: {extra.command}") from error
