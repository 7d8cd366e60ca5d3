"""PROVIDERS: what a user calls that which runs a graph, what ONNX Runtime calls it, and how to get it.

ONNX Runtime replaces a provider that does not start by the CPU, with a line on stderr. Here that is a ProviderError.
OpenVINO is no provider of ONNX Runtime here, but its own runtime behind the same interface.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rpln_runtime.engines import Engine, OnnxRuntimeEngine
from rpln_runtime.errors import ManifestError, MissingExtraError, ProviderError
from rpln_runtime.openvino_engine import OpenVinoEngine

_LOG_ERRORS_ONLY: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A row. `install` is the command that brings it, `device` where its tensors are kept.

    `onnxruntime_name` is None for a runtime of its own. `takes_all_nodes` says that a whole encoder fits it, so that
    ONNX Runtime may be told to refuse any node left on the CPU. CUDA is none of these: it leaves shape computations to
    the CPU by design.
    """

    onnxruntime_name: str | None
    install: str
    device: str = "cpu"
    takes_all_nodes: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


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
    "tensorrt": Provider(
        onnxruntime_name="TensorrtExecutionProvider",
        install='pip install "rpln-runtime[gpu,tensorrt]"',
        device="cuda",
        takes_all_nodes=True,
    ),
    "openvino": Provider(onnxruntime_name=None, install='pip install "rpln-runtime[openvino]"'),
}


def open_engine(path: Path, *, provider: str, threads: int | None = None, spinning: bool | None = None) -> Engine:
    """Open the ONNX file `path` on exactly `provider`.

    `threads` is how many one operator may use (None: as many as there are cores), `spinning` whether idle ones wait
    busily (None: the provider's default). Raises ProviderError when another provider would run, MissingExtraError
    without its package, ManifestError for a graph that it cannot load.
    """
    if provider not in PROVIDERS:
        raise ProviderError(f"unknown provider {provider!r}: expected one of {', '.join(PROVIDERS)}.")
    row = PROVIDERS[provider]
    if row.onnxruntime_name is None:
        return OpenVinoEngine(path, threads=threads, install=row.install)
    return OnnxRuntimeEngine(_inference_session(path, provider, row, threads=threads, spinning=spinning))


def _inference_session(path: Path, provider: str, row: Provider, *, threads: int | None, spinning: bool | None) -> Any:
    onnxruntime = _import_onnxruntime(row)
    _check_available(onnxruntime, provider, row)
    try:
        # enable_fallback is onnxruntime's own retry on the CPU, which it reports with print.
        session = onnxruntime.InferenceSession(
            str(path),
            _session_options(onnxruntime, row, threads=threads, spinning=spinning),
            [(row.onnxruntime_name, dict(row.options))],
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
