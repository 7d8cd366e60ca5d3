"""Compiling an ONNX file to an engine, in one way for both TensorRTs; BACKENDS says where they differ."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rpln_graphs.errors import EngineError
from rpln_graphs.tensorrt.backends import Backend, EngineOptions
from rpln_graphs.tensorrt.layers import layers_from_inspection, layers_from_log
from rpln_runtime.engines.manifest import Layer
from rpln_runtime.engines.profiles import Shapes
from rpln_runtime.engines.tensorrt.log import NOISE, make_log

FLAGS: Final = {
    "version_compatible": ("VERSION_COMPATIBLE",),
    "strip_weights": ("STRIP_PLAN", "REFIT_IDENTICAL"),
}
"""The flags of TensorRT's builder for each option that has some."""

_WEIGHTS: Final = re.compile(r"Total Weights Memory: (\d+) bytes")
_ACTIVATIONS: Final = re.compile(r"Total Activation Memory: (\d+) bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """A serialized engine, and what its builder says of it.

    Attributes:
        data: the engine.
        version: the version of TensorRT that built it.
        layers: its kernels.
        weights: the bytes of memory of its weights.
        activations: the bytes of memory of its activations in each profile.
        seconds: the time it took to build.
        timings: the cache of kernels measured; None if the backend keeps none.
    """

    data: memoryview
    version: str
    layers: tuple[Layer, ...]
    weights: int
    activations: tuple[int, ...]
    seconds: float
    timings: bytes | None


def build_engine(
    graph: Path,
    profiles: Sequence[Mapping[str, Shapes]],
    *,
    backend: Backend,
    targets: Sequence[str] = (),
    options: EngineOptions,
    timings: bytes | None = None,
) -> BuiltEngine:
    """Return an engine that is compiled of the ONNX file `graph`, in its own types, for the shapes in `profiles`.

    `targets` are the GPUs to build for, if the backend can choose. `timings` is a cache of kernels measured before; the
    result has a larger one. Raises EngineError with NVIDIA's words, and MissingExtraError without the backend's
    package.
    """
    trt = backend.load()
    log = make_log(trt, echo=options.verbose)
    builder = trt.Builder(log)
    # Version 10 needs the flag; later versions always type strongly, and may not have it.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise _refusal(trt, graph, [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)])
    config = builder.create_builder_config()
    _configure(trt, config, options)
    if backend.targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index):
                raise _refusal(trt, graph, log.errors)
    cache = _timing_cache(config, timings or b"") if backend.keeps_timings else None
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, sizes in shapes.items():
            profile.set_shape(name, *sizes)
        if config.add_optimization_profile(profile) < 0:
            raise _refusal(trt, graph, log.errors)
    begun = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - begun
    if plan is None:
        raise _refusal(trt, graph, log.errors)
    activations = tuple(int(size) for size in _ACTIVATIONS.findall(log.text))
    weights = _WEIGHTS.search(log.text)
    layers = _inspected(trt, plan, log) if backend.needs_gpu else layers_from_log(log.text)
    if not layers or weights is None or len(activations) != len(profiles):
        raise EngineError(
            f"{trt.__name__} {trt.__version__} built an engine, but its log does not say what is in it as expected, so "
            "that the engine cannot be checked. Please report it (rpln doctor)."
        )
    return BuiltEngine(
        data=memoryview(plan),
        version=trt.__version__,
        layers=layers,
        weights=int(weights[1]),
        activations=activations,
        seconds=seconds,
        timings=None if cache is None else bytes(cache.serialize()),
    )


def _configure(trt: Any, config: Any, options: EngineOptions) -> None:
    """Set the builder's flags and limits by the options."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # fp32 means fp32: TF32 is on by default, and rounds the operands of products to ten bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in options.asked_for:
        for flag in FLAGS.get(name, ()):
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)


def _timing_cache(config: Any, timings: bytes) -> Any:
    """Return a cache of the kernels measured before on this kind of GPU. It has to live until the engine is built."""
    cache = config.create_timing_cache(timings)
    if not config.set_timing_cache(cache, ignore_mismatch=False):  # measured on another kind of GPU
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _inspected(trt: Any, plan: Any, log: Any) -> tuple[Layer, ...]:
    """Return the kernels of the serialized engine `plan`, which is loaded for that."""
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    inspector = engine.create_engine_inspector()
    return layers_from_inspection(json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON)))


def _parser_error(error: Any) -> str:
    reason = " ".join(line for line in error.desc().splitlines() if NOISE not in line)
    return f"{error.node_operator()} {error.node_name()}: {reason}"


def _refusal(trt: Any, graph: Path, reasons: Sequence[str]) -> EngineError:
    """Return the error for a graph that TensorRT does not compile, with its reasons, each once."""
    reason = "; ".join(dict.fromkeys(reasons)) or "no reason given"
    return EngineError(
        f"{trt.__name__} {trt.__version__} refuses {graph.name}: {reason}. It accepts standard operators whose "
        "operands have one type, and profiles that fit into the device's memory."
    )
