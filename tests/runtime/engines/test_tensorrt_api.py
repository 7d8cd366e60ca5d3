"""The stand-in has the names, statuses and refusals of NVIDIA's real packages, as far as these work without a GPU."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from rpln_export.cli import rpln_command
from rpln_runtime import ProviderError, load
from rpln_runtime.engines.tensorrt.device import Cuda
from rpln_runtime.engines.tensorrt.loading import DTYPES
from tests.runtime.bundles import Bundle, copy_bundle
from tests.runtime.messages import naming
from tests.runtime.tensorrt_stand_in import REAL, StandInCuda, add_engines, install_stand_in

HAS_DRIVER = Path("/proc/driver/nvidia/version").exists()


@pytest.fixture
def trt() -> ModuleType:
    module: ModuleType = pytest.importorskip("tensorrt_rtx", reason="TensorRT RTX is not installed ([tensorrt-rtx])")
    return module


@pytest.fixture
def cuda() -> ModuleType:
    reason = "cuda-python is not installed ([tensorrt-rtx])"
    module: ModuleType = pytest.importorskip("cuda.bindings.runtime", reason=reason)
    return module


def public(row: type) -> set[str]:
    return {name for name in dir(row) if not name.startswith("_")}


def test_the_stand_in_offers_nothing_that_tensorrt_has_not(trt: Any) -> None:
    ours = {"cuda", "versions", "load", "engine", "read"}
    for stand_in, name in REAL.items():
        assert public(stand_in) - ours <= public(getattr(trt, name)), name
    assert hasattr(trt.ILogger, "log")
    for builder in ("tensorrt", "tensorrt-rtx"):
        with pytest.MonkeyPatch.context() as patch:
            install_stand_in(patch, builder)
            module = sys.modules[builder.replace("-", "_")]
            assert {name for name in vars(module) if not name.startswith("_")} <= public(trt)
    assert hasattr(trt.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert hasattr(trt.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
    assert {"INPUT", "OUTPUT"} <= public(trt.TensorIOMode)
    assert {"ERROR", "INTERNAL_ERROR"} <= public(trt.ILogger.Severity)
    assert set(DTYPES) <= public(trt.DataType)
    assert hasattr(trt.IRuntimeConfig, "cuda_graph_strategy")


def test_the_stand_in_offers_nothing_that_cuda_has_not(cuda: Any) -> None:
    names = {name for name in public(StandInCuda) if name.startswith("cuda")}
    assert names <= public(cuda)
    for name in ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode", "cudaDeviceAttr"):
        for member in getattr(StandInCuda, name):
            assert getattr(getattr(cuda, name), member.name) == member.value


@pytest.mark.skipif(HAS_DRIVER, reason="there is an NVIDIA driver")
def test_without_a_driver_cuda_itself_is_quoted(cuda: Any) -> None:
    quoted = "cudaErrorInsufficientDriver, CUDA driver version is insufficient for CUDA runtime version"
    with pytest.raises(ProviderError, match=naming("NVIDIA driver", quoted, "rpln doctor", "provider='cpu'")):
        Cuda(cuda).check_driver()
    with pytest.raises(ProviderError, match=naming("cudaMalloc", quoted)):
        Cuda(cuda)("cudaMalloc", 16)


@pytest.mark.skipif(HAS_DRIVER, reason="there is an NVIDIA driver")
@pytest.mark.usefixtures("cuda")
def test_without_a_driver_nothing_is_loaded(
    bundle_of: Callable[..., Bundle], trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_: Any) -> Any:
        raise AssertionError("NVIDIA's runtime was created")

    monkeypatch.setattr(trt, "Runtime", crash)
    folder = add_engines(bundle_of("token-classification").folder, tmp_path, version=trt.__version__)
    with pytest.raises(ProviderError, match="NVIDIA driver"):
        load(folder, provider="tensorrt-rtx")
    folder = add_engines(bundle_of("token-classification").folder, tmp_path / "other", version="1.0.0")
    with pytest.raises(ProviderError, match=naming("tensorrt-rtx 1.0.0", trt.__version__)):
        load(folder, provider="tensorrt-rtx")


@pytest.mark.skipif(HAS_DRIVER, reason="there is an NVIDIA driver")
def test_nvidias_own_refusal_is_quoted(
    bundle_of: Callable[..., Bundle], trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a driver, TensorRT RTX makes a runtime that loads nothing. The message quotes its log."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", StandInCuda())
    folder = add_engines(bundle_of("token-classification").folder, tmp_path, version=trt.__version__)
    facts = (f"tensorrt-rtx {trt.__version__}", "engines/full-tensorrt-rtx.plan", "header.magicTag")
    with pytest.raises(ProviderError, match=naming(*facts)):
        load(folder, provider="tensorrt-rtx")


@pytest.mark.skipif(HAS_DRIVER, reason="there is an NVIDIA driver")
@pytest.mark.usefixtures("trt", "cuda")
def test_a_real_engine_passes_every_check_but_those_of_the_device(
    bundle_of: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_bundle(bundle_of("token-classification"), tmp_path, precision="float32")
    result = CliRunner().invoke(rpln_command, ["build", str(folder), "--engine", "tensorrt-rtx", "--gpu", "sm86"])
    assert result.exit_code == 0, result.output
    with pytest.raises(ProviderError, match="NVIDIA driver"):
        load(folder, provider="tensorrt-rtx")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", StandInCuda(capability=(8, 9)))
    with pytest.raises(ProviderError, match=naming(".plan", "sm86", "sm89", "rpln build")):
        load(folder, provider="tensorrt-rtx")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", StandInCuda(capability=(8, 6)))
    with pytest.raises(ProviderError, match=naming("engines/", ".plan", "cudaError 35")):
        load(folder, provider="tensorrt-rtx")
