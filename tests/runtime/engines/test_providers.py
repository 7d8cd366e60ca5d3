import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from rpln_runtime import MissingExtraError, ProviderError, load
from rpln_runtime.engines.providers import PROVIDERS, Provider, open_engine
from tests.runtime.bundles import Bundle


@pytest.fixture(scope="module")
def folder(bundle_of: Callable[..., Bundle]) -> Path:
    return bundle_of("token-classification").folder


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="onnxruntime has CUDA")
def test_cuda_that_is_not_there_is_an_error_that_says_what_to_install(folder: Path) -> None:
    with pytest.raises(ProviderError) as caught:
        load(folder, provider="cuda")
    assert str(caught.value) == (
        f"provider 'cuda' (CUDAExecutionProvider) is not in onnxruntime {onnxruntime.__version__} as installed, "
        "which has cpu. Run: pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino && "
        'pip install "rpln-runtime[gpu]"'
    )
    assert caught.value.exit_code == 5


def test_an_unknown_provider_is_refused(folder: Path) -> None:
    with pytest.raises(ProviderError) as caught:
        load(folder, provider="CPUExecutionProvider")
    assert str(caught.value) == (
        "unknown provider 'CPUExecutionProvider': expected one of cpu, cuda, onnxruntime-tensorrt, "
        "tensorrt, tensorrt-rtx, openvino."
    )


@pytest.mark.parametrize(
    ("provider", "extra"), [("cpu", "cpu"), ("cuda", "gpu"), ("onnxruntime-tensorrt", "gpu,tensorrt")]
)
def test_without_onnxruntime_the_pip_command_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, provider: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError) as caught:
        load(folder, provider=provider)
    assert str(caught.value).startswith("onnxruntime is not installed (")
    assert str(caught.value).endswith(f'). Run: pip install "rpln-runtime[{extra}]"')


def test_a_half_removed_onnxruntime_is_recognised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(MissingExtraError) as caught:
        load(folder)
    assert str(caught.value) == (
        "onnxruntime is only partly installed: two of its wheels were there and one was removed. Run: pip uninstall -y "
        'onnxruntime onnxruntime-gpu onnxruntime-openvino && pip install "rpln-runtime[cpu]"'
    )


def test_nodes_left_on_the_cpu_are_refused_where_a_provider_takes_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This one is in every build for the CPU and takes no node of such a graph.
    azure = "AzureExecutionProvider"
    assert azure in onnxruntime.get_available_providers()
    monkeypatch.setitem(PROVIDERS, "all", Provider(onnxruntime_name=azure, install="", takes_all_nodes=True))
    monkeypatch.setitem(PROVIDERS, "some", Provider(onnxruntime_name=azure, install=""))
    with pytest.raises(ProviderError, match=f"{azure} cannot run .* fallback to CPU EP has been explicitly disabled"):
        load(folder, provider="all")
    assert load(folder, provider="some").provider == "some"


def stand_in(monkeypatch: pytest.MonkeyPatch, session: Callable[..., Any]) -> None:
    """Put an onnxruntime in place that claims to have CUDA."""
    module = SimpleNamespace(
        __version__="1.0",
        InferenceSession=session,
        SessionOptions=onnxruntime.SessionOptions,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)


def test_a_silent_fallback_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def session(path: str, options: Any, providers: list[Any], *, enable_fallback: int) -> Any:
        asked.update(path=path, threads=options.intra_op_num_threads, providers=providers, fallback=enable_fallback)
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    stand_in(monkeypatch, session)
    with pytest.raises(ProviderError) as caught:
        open_engine(Path("model.onnx"), provider="cuda", threads=3)
    assert str(caught.value) == (
        "asked for provider 'cuda', got CPUExecutionProvider: CUDAExecutionProvider is installed and did not start. "
        "Check the device, its driver and libraries (rpln doctor), or choose provider='cpu'."
    )
    strict = ("CUDAExecutionProvider", {"enable_skip_layer_norm_strict_mode": "1"})
    assert asked == {"path": "model.onnx", "threads": 3, "providers": [strict], "fallback": 0}


def test_a_provider_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def session(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no device")

    stand_in(monkeypatch, session)
    with pytest.raises(
        ProviderError, match=r"CUDAExecutionProvider cannot run model\.onnx: no device\. Check the device"
    ):
        open_engine(Path("model.onnx"), provider="cuda")
