"""Bundles of the embedded checkpoints with engines for the GPU of this machine, each exported once."""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rpln_export.cli import export_command
from rpln_graphs.recipes import RECIPES
from rpln_graphs.tensorrt.backends import BACKENDS, device_target
from rpln_graphs.tolerances import RangeTolerance

Exporting = Callable[..., Path]

PROVIDER_OPTIONS = {
    "cpu": ["--engine", "none", "--target", "cpu", "--optimize", "standard"],
    "cuda": ["--engine", "none", "--target", "cuda"],
    "onnxruntime-tensorrt": ["--engine", "none", "--target", "tensorrt"],
    "tensorrt": ["--engine", "tensorrt", "--target", "tensorrt"],
    "tensorrt-rtx": ["--engine", "tensorrt-rtx", "--target", "tensorrt", "--gpu", device_target() or "sm89"],
}
# Options that a task needs to be compiled, so that both sides of a comparison have the same graphs.
TASK_OPTIONS = {
    "fill-mask": ["--logits", "positions"],
    "text-generation": ["--variants", "prefill,decode"],
    "text2text-generation": ["--variants", "prefill,decode"],
}


DIFFERENCE = 1e-4
"""The accepted difference between a CPU and a GPU in fp32."""


ROUNDED = 0.05
"""The accepted difference of two runs of a quantized graph, relative to the range: roundings may flip in each layer."""


def accepted_difference(recipe: str, *expected: np.ndarray) -> float:
    """Return by how much a GPU may differ from `expected`, which a CPU computed in fp32."""
    tolerance = RECIPES[recipe].tolerance
    if not isinstance(tolerance, RangeTolerance):
        return DIFFERENCE
    return tolerance.difference * max(float(np.abs(array).max()) for array in expected)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exporting:
    """Return a function that exports the embedded checkpoint of a task in a type for a provider."""

    @functools.cache
    def export(task: str, recipe: str, provider: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{task}-{recipe}-{provider}") / "bundle"
        options = ["--precision", recipe, *TASK_OPTIONS.get(task, []), *PROVIDER_OPTIONS[provider]]
        result = CliRunner().invoke(export_command, ["--task", task, *options, "-o", str(folder)])
        assert result.exit_code == 0, result.output
        return folder

    return export


def require_provider(provider: str) -> None:
    """Skip, with the reason, if the provider's packages are not installed or do not support this GPU."""
    if provider == "onnxruntime-tensorrt":
        trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed ([tensorrt])")
        if not trt.__version__.startswith("10."):
            pytest.skip(f"ONNX Runtime's TensorRT provider is linked against 10.x, {trt.__version__} is installed")
    if provider in BACKENDS:
        backend, target = BACKENDS[provider], device_target()
        pytest.importorskip(backend.module, reason=f"{provider} is not installed")
        if backend.targets and target not in backend.targets:
            pytest.skip(f"{provider} has no kernels for {target}: {', '.join(backend.targets)}")
    else:
        onnxruntime = importlib.import_module("onnxruntime")
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("onnxruntime is installed without CUDA ([gpu])")


def require_recipe(provider: str, recipe: str) -> None:
    """Skip a test whose engines TensorRT does not build in this precision for the GPU of this machine."""
    require_provider(provider)
    if reason := BACKENDS[provider].refused.get((device_target() or "", recipe)):
        pytest.skip(reason)
