"""A plan file to an engine of NVIDIA's runtime, with its weights."""

from typing import Any, Final, NamedTuple

from rpln_runtime.engines.base import Bundle
from rpln_runtime.engines.manifest import EngineManifest
from rpln_runtime.engines.tensorrt.log import make_log
from rpln_runtime.errors import ManifestError, ProviderError


class Dtype(NamedTuple):
    """A tensor's type: numpy's name of it, its number in ONNX, and bytes of an element."""

    name: str
    element: int
    size: int


DTYPES: Final = {
    "FLOAT": Dtype("float32", 1, 4),
    "INT64": Dtype("int64", 7, 8),
    "HALF": Dtype("float16", 10, 2),
    "BF16": Dtype("bfloat16", 16, 2),
}
"""By NVIDIA's name."""


class Loaded(NamedTuple):
    """An engine in NVIDIA's memory. `runtime` and `log` have to live as long as it does; the log keeps errors."""

    cuda_engine: Any
    inputs: dict[str, Dtype]
    outputs: dict[str, Dtype]
    runtime: Any
    log: Any


def load_engine(trt: Any, bundle: Bundle, engine: EngineManifest) -> Loaded:
    """Deserialize `engine`; a stripped one gets the weights of the graph that it was built from.

    Raises ProviderError, with what NVIDIA's log says, where it cannot be loaded.
    """
    log = make_log(trt, errors_only=True)
    runtime = trt.Runtime(log)
    # A version-compatible plan brings the runtime that reads it; its hash says that it is the one that was built.
    runtime.engine_host_code_allowed = engine.version_compatible
    cuda_engine = runtime.deserialize_cuda_engine((bundle.folder / engine.plan.path).read_bytes())
    loaded = cuda_engine is not None
    if loaded and engine.stripped:
        loaded = _refit(trt, log, cuda_engine, str(bundle.folder / engine.graph[0].path))
    if not loaded:
        reason = " ".join(log.errors) or "no reason given."
        raise ProviderError(
            f"{engine.builder} {trt.__version__} cannot load {engine.plan.path}: {reason} Check the device, its free "
            f"memory (rpln doctor), or build the engine again: rpln build {bundle.folder} --engine {engine.builder}"
        )
    inputs, outputs = (_dtypes(trt, cuda_engine, mode) for mode in ("INPUT", "OUTPUT"))
    return Loaded(cuda_engine, inputs, outputs, runtime, log)


def _refit(trt: Any, log: Any, cuda_engine: Any, path: str) -> bool:
    refitter = trt.Refitter(cuda_engine, log)
    return bool(trt.OnnxParserRefitter(refitter, log).refit_from_file(path)) and bool(refitter.refit_cuda_engine())


def _dtypes(trt: Any, cuda_engine: Any, mode: str) -> dict[str, Dtype]:
    names = [cuda_engine.get_tensor_name(index) for index in range(cuda_engine.num_io_tensors)]
    wanted = getattr(trt.TensorIOMode, mode)
    found = {
        name: cuda_engine.get_tensor_dtype(name).name for name in names if cuda_engine.get_tensor_mode(name) == wanted
    }
    for name, dtype in found.items():
        if dtype not in DTYPES:
            raise ManifestError(
                f"{name} of the engine is {dtype}, expected one of {', '.join(DTYPES)}. Build it again."
            )
    return {name: DTYPES[dtype] for name, dtype in found.items()}
