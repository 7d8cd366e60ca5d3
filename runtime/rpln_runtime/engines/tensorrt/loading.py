"""Loading: from the file of an engine to an engine in NVIDIA's runtime, with its weights."""

from typing import Any, Final, NamedTuple

from rpln_runtime.engines.base import Bundle
from rpln_runtime.engines.manifest import EngineManifest
from rpln_runtime.engines.tensorrt.log import make_log
from rpln_runtime.errors import ManifestError, ProviderError


class Dtype(NamedTuple):
    """The dtype of a tensor.

    Attributes:
        name: the name that numpy has for it.
        element: its number in ONNX (`TensorProto.DataType`).
        size: the bytes of an element.
    """

    name: str
    element: int
    size: int


DTYPES: Final = {
    "FLOAT": Dtype("float32", 1, 4),
    "INT64": Dtype("int64", 7, 8),
    "HALF": Dtype("float16", 10, 2),
    "BF16": Dtype("bfloat16", 16, 2),
}
"""The dtypes of tensors, by the name that TensorRT's `DataType` has for them."""


class Loaded(NamedTuple):
    """An engine in NVIDIA's runtime.

    Attributes:
        cuda_engine: the `ICudaEngine`.
        inputs: the dtypes of the inputs, by name.
        outputs: the dtypes of the outputs, by name.
        runtime: the `IRuntime`, which must live as long as the engine.
        log: the logger, which must live as long as the engine and keeps its errors.
    """

    cuda_engine: Any
    inputs: dict[str, Dtype]
    outputs: dict[str, Dtype]
    runtime: Any
    log: Any


def load_engine(trt: Any, bundle: Bundle, engine: EngineManifest) -> Loaded:
    """Load an engine. One that has no weights gets those of the ONNX file that it was built from.

    Raises ProviderError, with the errors in NVIDIA's log, if it cannot be loaded.
    """
    log = make_log(trt, errors_only=True)
    runtime = trt.Runtime(log)
    # A version-compatible plan contains code, the runtime that reads it. Its SHA-256 is in the bundle's manifest.
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
    """Put the weights of the ONNX file `path` into the engine, and return whether that worked."""
    refitter = trt.Refitter(cuda_engine, log)
    return bool(trt.OnnxParserRefitter(refitter, log).refit_from_file(path)) and bool(refitter.refit_cuda_engine())


def _dtypes(trt: Any, cuda_engine: Any, mode: str) -> dict[str, Dtype]:
    """Return the dtypes of the tensors of a mode, "INPUT" or "OUTPUT", by name.

    Raises ManifestError for a type that is not in DTYPES.
    """
    names = [cuda_engine.get_tensor_name(index) for index in range(cuda_engine.num_io_tensors)]
    wanted = getattr(trt.TensorIOMode, mode)
    found = {
        name: cuda_engine.get_tensor_dtype(name).name for name in names if cuda_engine.get_tensor_mode(name) == wanted
    }
    for name, dtype in found.items():
        if dtype not in DTYPES:
            raise ManifestError(
                f"{name} of the engine is {dtype}, expected one of {', '.join(DTYPES)}. Build the engine again."
            )
    return {name: DTYPES[dtype] for name, dtype in found.items()}
