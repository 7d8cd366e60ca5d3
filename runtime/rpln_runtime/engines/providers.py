"""PROVIDERS: one row for each way to run a graph, by the name that users give it.

"cpu", "cuda" and "onnxruntime-tensorrt" are execution providers of ONNX Runtime. By itself, ONNX Runtime runs a graph
on the CPU when a provider does not start, and says so on stderr; here that is a ProviderError. "openvino", "tensorrt"
and "tensorrt-rtx" run the runtimes of Intel and NVIDIA without ONNX Runtime.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from rpln_runtime.engines.base import Bundle, Engine
from rpln_runtime.engines.onnxruntime import OnnxRuntimeEngine
from rpln_runtime.engines.openvino import OpenVinoEngine
from rpln_runtime.engines.tensorrt import open_tensorrt
from rpln_runtime.engines.tensorrt_provider import tensorrt_provider_options
from rpln_runtime.errors import ManifestError, MissingExtraError, ProviderError
from rpln_runtime.installing import extras_command

_LOG_ERRORS_ONLY: Final = 3
"""The level of ONNX Runtime's log at which it reports errors and no warnings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A way to run a graph.

    Attributes:
        install: the command that installs the packages that it needs.
        runtime: the row of `_OPENERS` that opens a graph on it.
        module: the Python module of NVIDIA's runtime; None for providers that do not run TensorRT engines.
        takes_empty: whether an axis may have size 0, as the cache of a decoder has before its first step.
        device: where the memory of its tensors is, "cpu" or "cuda".
        file_suffix: what the file of its own form of a graph ends in: `model.SUFFIX.onnx`.
        onnxruntime_name: the name of the execution provider in ONNX Runtime; None for other runtimes.
        takes_all_nodes: whether ONNX Runtime must refuse a graph with nodes that the provider leaves to the CPU. CUDA
            leaves the computation of shapes to the CPU by design.
        options: the options that ONNX Runtime gives to the execution provider.
        bundle_options: a function that returns further options, which depend on the bundle; None if there are none.
    """

    install: str
    runtime: str = "onnxruntime"
    module: str | None = None
    takes_empty: bool = True
    device: str = "cpu"
    file_suffix: str = "ort"
    onnxruntime_name: str | None = None
    takes_all_nodes: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    bundle_options: Callable[[Bundle], Mapping[str, str]] | None = None


_REMOVE_OTHERS: Final = "pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino && "
"""The command that removes every wheel of ONNX Runtime.

Their files are in one folder: the wheel that was installed last is used, and removing one breaks the others.
"""

PROVIDERS: Final[dict[str, Provider]] = {
    "cpu": Provider(onnxruntime_name="CPUExecutionProvider", install=extras_command("cpu")),
    "cuda": Provider(
        onnxruntime_name="CUDAExecutionProvider",
        install=extras_command("gpu"),
        device="cuda",
        # By default, the squares of LayerNorm are summed in fp16, which overflows where hidden states exceed 256.
        options={"enable_skip_layer_norm_strict_mode": "1"},
    ),
    "onnxruntime-tensorrt": Provider(
        onnxruntime_name="TensorrtExecutionProvider",
        install=extras_command("gpu", "tensorrt"),
        takes_empty=False,
        device="cuda",
        takes_all_nodes=True,
        bundle_options=tensorrt_provider_options,
    ),
    "tensorrt": Provider(
        install=extras_command("tensorrt"),
        runtime="tensorrt",
        module="tensorrt",
        takes_empty=False,
        device="cuda",
    ),
    "tensorrt-rtx": Provider(
        install=extras_command("tensorrt-rtx"),
        runtime="tensorrt",
        module="tensorrt_rtx",
        takes_empty=False,
        device="cuda",
    ),
    "openvino": Provider(install=extras_command("openvino"), runtime="openvino", file_suffix="openvino"),
}
"""The providers by name."""


class EngineOpening(NamedTuple):
    """An ONNX file that is to be opened; see `open_engine`.

    Attributes:
        path: the ONNX file.
        provider: the name of the provider.
        row: the row of PROVIDERS with that name.
        threads: the most threads that one operator uses; None means one for each core.
        spinning: whether idle threads wait in a busy loop; None means the provider's default.
        bundle: the graph's bundle; None for a file that is in none.
    """

    path: Path
    provider: str
    row: Provider
    threads: int | None
    spinning: bool | None
    bundle: Bundle | None


def open_engine(
    path: Path,
    *,
    provider: str,
    threads: int | None = None,
    spinning: bool | None = None,
    bundle: Bundle | None = None,
) -> Engine:
    """Open an ONNX file on a provider, and return the engine that runs it.

    Args:
        path: the ONNX file.
        provider: a name in PROVIDERS.
        threads: the most threads that one operator uses. None means one for each core.
        spinning: whether idle threads wait in a busy loop. None means the provider's default.
        bundle: the graph's bundle, which has TensorRT engines and the sizes of axes. None for a file that is in none.

    Raises ProviderError where the provider cannot run the graph or no engine of the bundle fits, MissingExtraError
    where its package is not installed, and ManifestError for a graph that it cannot load.
    """
    opening = EngineOpening(path, provider, provider_row(provider), threads, spinning, bundle)
    return _OPENERS[opening.row.runtime](opening)


def provider_row(provider: str) -> Provider:
    """Return the row of PROVIDERS with this name. Raises ProviderError if there is none."""
    if provider not in PROVIDERS:
        raise ProviderError(f"unknown provider {provider!r}: expected one of {', '.join(PROVIDERS)}.")
    return PROVIDERS[provider]


def check_installed(provider: str) -> None:
    """Raise what `open_engine` raises for a provider whose packages are not installed, before a graph is there."""
    row = provider_row(provider)
    if row.runtime == "onnxruntime":
        _check_available(_import_onnxruntime(row), provider, row)
        return
    module = row.module or row.runtime
    if find_spec(module) is None:
        raise MissingExtraError(
            f"provider {provider!r} needs the module {module}, which is not installed. Run: {row.install}"
        )


def _open_onnxruntime(opening: EngineOpening) -> Engine:
    return OnnxRuntimeEngine(_inference_session(opening), device=opening.row.device)


def _open_openvino(opening: EngineOpening) -> Engine:
    return OpenVinoEngine(opening.path, threads=opening.threads, install=opening.row.install)


def _open_tensorrt(opening: EngineOpening) -> Engine:
    if opening.bundle is None:
        raise ProviderError(
            f"provider {opening.provider!r} runs the engines of a bundle, not an ONNX file: open a bundle with load()."
        )
    row = opening.row
    assert row.module is not None
    return open_tensorrt(opening.bundle, builder=opening.provider, module=row.module, install=row.install)


_OPENERS: Final[dict[str, Callable[[EngineOpening], Engine]]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "tensorrt": _open_tensorrt,
}
"""The functions that open a graph, by `Provider.runtime`."""


def _inference_session(opening: EngineOpening) -> Any:
    """Return the `onnxruntime.InferenceSession`. Raises as `open_engine` does, and if another provider would run."""
    path, provider, row = opening.path, opening.provider, opening.row
    onnxruntime = _import_onnxruntime(row)
    _check_available(onnxruntime, provider, row)
    if row.device == "cuda":
        _load_libraries(onnxruntime)
    options = dict(row.options)
    if row.bundle_options is not None and opening.bundle is not None:
        options |= row.bundle_options(opening.bundle)
    try:
        # With enable_fallback, ONNX Runtime tries again on the CPU and prints that it does.
        session = onnxruntime.InferenceSession(
            str(path),
            _session_options(onnxruntime, row, threads=opening.threads, spinning=opening.spinning),
            [(row.onnxruntime_name, options)],
            enable_fallback=0,
        )
    except Exception as error:  # ONNX Runtime's exceptions have no narrower class in common
        if row.onnxruntime_name == "CPUExecutionProvider":
            raise ManifestError(
                f"onnxruntime {onnxruntime.__version__} cannot load {path}: {error}. "
                f"Export the checkpoint again, or update it: {row.install} --upgrade"
            ) from error
        raise ProviderError(
            f"{row.onnxruntime_name} cannot run {path}: {error}. "
            "Check the device and its driver (rpln doctor), or choose provider='cpu'."
        ) from error
    if (running := session.get_providers()[0]) != row.onnxruntime_name:
        raise ProviderError(
            f"provider {provider!r} ({row.onnxruntime_name}) is installed but did not start: {running} would run. "
            "Check the device, its driver and libraries (rpln doctor), or choose provider='cpu'."
        )
    return session


def _import_onnxruntime(row: Provider) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(f"onnxruntime is not installed ({error}). Run: {row.install}") from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise MissingExtraError(
            "onnxruntime is only partly installed, because two of its wheels were and one of them was removed. "
            f"Run: {_REMOVE_OTHERS}{row.install}"
        )
    return onnxruntime


def _load_libraries(onnxruntime: Any) -> None:
    """Load NVIDIA's libraries from their packages, where there are any: ONNX Runtime itself looks beside the system's.

    What is missing is said on stderr, and the session then fails to start with a ProviderError.
    """
    with redirect_stdout(sys.stderr):  # it prints to stdout, which --json needs for itself
        onnxruntime.preload_dlls()


def _check_available(onnxruntime: Any, provider: str, row: Provider) -> None:
    available = onnxruntime.get_available_providers()
    if row.onnxruntime_name in available:
        return
    names = [name for name, other in PROVIDERS.items() if other.onnxruntime_name in available]
    raise ProviderError(
        f"the installed onnxruntime {onnxruntime.__version__} has no provider {provider!r} ({row.onnxruntime_name}), "
        f"only {', '.join(names)}. Run: {_REMOVE_OTHERS}{row.install}"
    )


def _session_options(onnxruntime: Any, row: Provider, *, threads: int | None, spinning: bool | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    if spinning is not None:
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    if row.takes_all_nodes:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options
