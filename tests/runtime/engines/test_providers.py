import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from rpln_runtime import MissingExtraError, ProviderError, load
from rpln_runtime.engines.providers import PROVIDERS, Provider, check_installed, open_engine
from tests.runtime.bundles import Bundle
from tests.runtime.messages import naming

REMOVE_ALL = "pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino"
INSTALL_GPU = 'pip install "rpln-runtime[gpu]"'


@pytest.fixture(scope="module")
def folder(bundle_of: Callable[..., Bundle]) -> Path:
    return bundle_of("token-classification").folder


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="onnxruntime has CUDA")
def test_cuda_that_is_not_there_is_an_error_that_says_what_to_install(folder: Path) -> None:
    facts = (onnxruntime.__version__, "'cuda'", "CUDAExecutionProvider", "cpu", f"Run: {REMOVE_ALL} && {INSTALL_GPU}")
    with pytest.raises(ProviderError, match=naming(*facts)) as caught:
        load(folder, provider="cuda")
    assert caught.value.exit_code == 5


def test_an_unknown_provider_is_refused(folder: Path) -> None:
    with pytest.raises(ProviderError, match=naming("'CPUExecutionProvider'", ", ".join(PROVIDERS))):
        load(folder, provider="CPUExecutionProvider")


@pytest.mark.parametrize(
    ("provider", "extra"), [("cpu", "cpu"), ("cuda", "gpu"), ("onnxruntime-tensorrt", "gpu,tensorrt")]
)
def test_without_onnxruntime_the_pip_command_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, provider: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=naming("onnxruntime", f'Run: pip install "rpln-runtime[{extra}]"')):
        load(folder, provider=provider)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_not_installed_is_known_before_a_graph_is_opened(
    monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    for module in ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=naming(f"Run: {PROVIDERS[provider].install}")):
        check_installed(provider)


def test_a_half_removed_onnxruntime_is_recognised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(MissingExtraError, match=naming(f'Run: {REMOVE_ALL} && pip install "rpln-runtime[cpu]"')):
        load(folder)


def test_nodes_left_on_the_cpu_are_refused_where_a_provider_takes_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This provider is in every build for the CPU, and takes no node of such a graph.
    azure = "AzureExecutionProvider"
    assert azure in onnxruntime.get_available_providers()
    monkeypatch.setitem(PROVIDERS, "all", Provider(onnxruntime_name=azure, install="", takes_all_nodes=True))
    monkeypatch.setitem(PROVIDERS, "some", Provider(onnxruntime_name=azure, install=""))
    with pytest.raises(ProviderError, match=f"{azure} .* fallback to CPU EP has been explicitly disabled"):
        load(folder, provider="all")
    assert load(folder, provider="some").provider == "some"


def stand_in(
    monkeypatch: pytest.MonkeyPatch, session: Callable[..., Any], *, preload: Callable[[], object] = lambda: None
) -> None:
    """Put a module in the place of onnxruntime that claims to have CUDA."""
    module = SimpleNamespace(
        __version__="1.0",
        InferenceSession=session,
        preload_dlls=preload,
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
    facts = ("'cuda'", "CUDAExecutionProvider", "CPUExecutionProvider", "rpln doctor", "provider='cpu'")
    with pytest.raises(ProviderError, match=naming(*facts)):
        open_engine(Path("model.onnx"), provider="cuda", threads=3)
    strict = ("CUDAExecutionProvider", {"enable_skip_layer_norm_strict_mode": "1"})
    assert asked == {"path": "model.onnx", "threads": 3, "providers": [strict], "fallback": 0}


@pytest.mark.parametrize(("provider", "loads"), [("cpu", False), ("cuda", True)])
def test_nvidias_libraries_are_loaded_before_a_session_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], provider: str, loads: bool
) -> None:
    """ONNX Runtime itself does not look for them in the packages that its extras install."""
    events: list[str] = []

    def preload() -> None:
        events.append("libraries")
        sys.stdout.write("one is missing\n")

    def session(*_: Any, **__: Any) -> Any:
        events.append("session")
        return SimpleNamespace(get_providers=lambda: [PROVIDERS[provider].onnxruntime_name])

    stand_in(monkeypatch, session, preload=preload)
    open_engine(Path("model.onnx"), provider=provider)
    assert events == (["libraries", "session"] if loads else ["session"])
    assert capfd.readouterr() == ("", "one is missing\n" if loads else "")


def test_a_provider_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def session(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no device")

    stand_in(monkeypatch, session)
    with pytest.raises(ProviderError, match=naming("CUDAExecutionProvider", "model.onnx: no device", "rpln doctor")):
        open_engine(Path("model.onnx"), provider="cuda")
