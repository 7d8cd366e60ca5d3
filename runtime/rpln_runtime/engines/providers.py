"""PROVIDERS: what a user calls that which runs a graph, what ONNX Runtime calls it, and how to get it.

ONNX Runtime replaces a provider that does not start by the CPU, with a line on stderr. Here that is a ProviderError.
OpenVINO and TensorRT are no providers of ONNX Runtime here, but their own runtimes behind the same interface;
"onnxruntime-tensorrt" is ONNX Runtime's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from rpln_runtime.engines.base import Bundle, Engine
from rpln_runtime.engines.onnxruntime import OnnxRuntimeEngine
from rpln_runtime.engines.openvino import OpenVinoEngine
from rpln_runtime.engines.tensorrt import open_tensorrt
from rpln_runtime.engines.tensorrt_provider import tensorrt_provider_options
from rpln_runtime.errors import ManifestError, MissingExtraError, ProviderError

_LOG_ERRORS_ONLY: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A way to run a graph, by the name that users give it.

    Attributes:
        install: the command that installs what it needs.
        runtime: the row of `_OPENERS` that opens a graph on it.
        module: the Python module of NVIDIA's runtime, for providers that run TensorRT engines.
        takes_empty: whether an axis may be of size 0, as the past of a decoder's first step is.
        binds_memory: whether inputs and outputs can be bound to memory, as generating text does with its cache.
        device: where its tensors are kept, "cpu" or "cuda".
        file_suffix: what its own form of a graph is called: `model.SUFFIX.onnx`.
        onnxruntime_name: what ONNX Runtime calls it, for its providers.
        takes_all_nodes: whether every node of an encoder runs on it, so that ONNX Runtime is told to refuse any that
            would run on the CPU. CUDA leaves computations of shapes to the CPU by design.
        options: ONNX Runtime's options for it.
        bundle_options: the options that depend on the bundle, in addition to `options`.
    """

    install: str
    runtime: str = "onnxruntime"
    module: str | None = None
    takes_empty: bool = True
    binds_memory: bool = True
    device: str = "cpu"
    file_suffix: str = "ort"
    onnxruntime_name: str | None = None
    takes_all_nodes: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    bundle_options: Callable[[Bundle], Mapping[str, str]] | None = None


# The wheels share one folder: the last one installed wins, and removing either breaks the other.
_REMOVE_OTHERS: Final = "pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino && "

PROVIDERS: Final[dict[str, Provider]] = {
    "cpu": Provider(onnxruntime_name="CPUExecutionProvider", install='pip install "rpln-runtime[cpu]"'),
    "cuda": Provider(
        onnxruntime_name="CUDAExecutionProvider",
        install='pip install "rpln-runtime[gpu]"',
        device="cuda",
        # The default sums squares in fp16, which overflows where the residual stream passes 256.
        options={"enable_skip_layer_norm_strict_mode": "1"},
    ),
    "onnxruntime-tensorrt": Provider(
        onnxruntime_name="TensorrtExecutionProvider",
        install='pip install "rpln-runtime[gpu,tensorrt]"',
        takes_empty=False,
        device="cuda",
        takes_all_nodes=True,
        bundle_options=tensorrt_provider_options,
    ),
    "tensorrt": Provider(
        install='pip install "rpln-runtime[tensorrt]"',
        runtime="tensorrt",
        module="tensorrt",
        takes_empty=False,
        device="cuda",
    ),
    "tensorrt-rtx": Provider(
        install='pip install "rpln-runtime[tensorrt-rtx]"',
        runtime="tensorrt",
        module="tensorrt_rtx",
        takes_empty=False,
        device="cuda",
    ),
    "openvino": Provider(
        install='pip install "rpln-runtime[openvino]"', runtime="openvino", binds_memory=False, file_suffix="openvino"
    ),
}


class EngineOpening(NamedTuple):
    """An ONNX file to open on a provider, and how; see `open_engine`."""

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
    """Open the ONNX file `path` on exactly `provider`.

    `threads` is how many one operator may use (None: as many as there are cores), `spinning` whether idle ones wait
    busily (None: the provider's default), `bundle` what the file is of, where engines and settings come from. Raises
    ProviderError when another provider would run or none of the bundle's engines can, MissingExtraError without its
    package, ManifestError for a graph that it cannot load.
    """
    opening = EngineOpening(path, provider, provider_row(provider), threads, spinning, bundle)
    return _OPENERS[opening.row.runtime](opening)


def provider_row(provider: str) -> Provider:
    """The row of PROVIDERS called `provider`. Raises ProviderError where there is none."""
    if provider not in PROVIDERS:
        raise ProviderError(f"unknown provider {provider!r}: expected one of {', '.join(PROVIDERS)}.")
    return PROVIDERS[provider]


def _open_onnxruntime(opening: EngineOpening) -> Engine:
    return OnnxRuntimeEngine(_inference_session(opening), device=opening.row.device)


def _open_openvino(opening: EngineOpening) -> Engine:
    return OpenVinoEngine(opening.path, threads=opening.threads, install=opening.row.install)


def _open_tensorrt(opening: EngineOpening) -> Engine:
    if opening.bundle is None:
        raise ProviderError(f"provider {opening.provider!r} runs the engines of a bundle: open it with load().")
    row = opening.row
    assert row.module is not None
    return open_tensorrt(opening.bundle, builder=opening.provider, module=row.module, install=row.install)


_OPENERS: Final[dict[str, Callable[[EngineOpening], Engine]]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "tensorrt": _open_tensorrt,
}


def _inference_session(opening: EngineOpening) -> Any:
    path, provider, row = opening.path, opening.provider, opening.row
    onnxruntime = _import_onnxruntime(row)
    _check_available(onnxruntime, provider, row)
    options = dict(row.options)
    if row.bundle_options is not None and opening.bundle is not None:
        options |= row.bundle_options(opening.bundle)
    try:
        # enable_fallback is onnxruntime's own retry on the CPU, which it reports with print.
        session = onnxruntime.InferenceSession(
            str(path),
            _session_options(onnxruntime, row, threads=opening.threads, spinning=opening.spinning),
            [(row.onnxruntime_name, options)],
            enable_fallback=0,
        )
    except Exception as error:  # its exceptions have no common class but this one
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
            f"asked for provider {provider!r}, got {running}: {row.onnxruntime_name} is installed and did not start. "
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
            "onnxruntime is only partly installed: two of its wheels were there and one was removed. "
            f"Run: {_REMOVE_OTHERS}{row.install}"
        )
    return onnxruntime


def _check_available(onnxruntime: Any, provider: str, row: Provider) -> None:
    available = onnxruntime.get_available_providers()
    if row.onnxruntime_name in available:
        return
    names = [name for name, other in PROVIDERS.items() if other.onnxruntime_name in available]
    raise ProviderError(
        f"provider {provider!r} ({row.onnxruntime_name}) is not in onnxruntime {onnxruntime.__version__} as installed, "
        f"which has {', '.join(names)}. Run: {_REMOVE_OTHERS}{row.install}"
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
