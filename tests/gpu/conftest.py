"""Bundles with engines, each exported once: of the embedded checkpoints, on the GPU at hand."""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from rpln_export.cli import export_command
from rpln_graphs.tensorrt.backends import BACKENDS, device_target

Exporting = Callable[..., Path]

FLAGS = {"fp32": [], "fp16": ["--fp16"], "bf16": ["--bf16"]}
PROVIDER_OPTIONS = {
    "cpu": ["--engine", "none", "--target", "cpu", "--optimize", "standard"],
    "cuda": ["--engine", "none", "--target", "cuda"],
    "onnxruntime-tensorrt": ["--engine", "none", "--target", "tensorrt"],
    "tensorrt": ["--engine", "tensorrt", "--target", "tensorrt"],
    "tensorrt-rtx": ["--engine", "tensorrt-rtx", "--target", "tensorrt", "--gpu", device_target() or "sm89"],
}
# What the defaults of a task need to be compiled: the graphs of both sides of a comparison are the same.
TASK_OPTIONS = {
    "fill-mask": ["--logits", "positions"],
    "text-generation": ["--variants", "prefill,decode"],
    "text2text-generation": ["--variants", "prefill,decode"],
}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exporting:
    """Export the embedded checkpoint of a task in a type for a provider, and return the folder."""

    @functools.cache
    def export(task: str, recipe: str, provider: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{task}-{recipe}-{provider}") / "bundle"
        options = [*FLAGS[recipe], *TASK_OPTIONS.get(task, []), *PROVIDER_OPTIONS[provider]]
        result = CliRunner().invoke(export_command, ["--task", task, *options, "-o", str(folder)])
        assert result.exit_code == 0, result.output
        return folder

    return export


def require_provider(provider: str) -> None:
    """Skip, and say why, where what a provider runs on is not installed or not for this GPU."""
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
