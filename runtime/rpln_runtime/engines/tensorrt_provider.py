"""Options of ONNX Runtime's TensorRT provider that depend on the bundle.

The provider builds an engine when a graph first runs. It must be told for which shapes and types, and where to keep the
engine for the next run. The names of options are those in ONNX Runtime's tensorrt_execution_provider_info.cc.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from rpln_runtime.caches import cache_folder
from rpln_runtime.engines.base import Bundle
from rpln_runtime.engines.manifest import Profile, graph_files, read_engines
from rpln_runtime.engines.profiles import complete_profile, input_shapes

_PRECISIONS: Final = {"float16": "trt_fp16_enable", "bfloat16": "trt_bf16_enable"}
"""The option that allows TensorRT 10 to use a type, by the type of the bundle's weights."""


def tensorrt_provider_options(bundle: Bundle) -> dict[str, str]:
    """Return the options for types, profiles and caches, and make the folder of the cache."""
    cache = cache_folder() / "onnxruntime-tensorrt"
    engines = cache / _graph_hash(bundle)
    engines.mkdir(parents=True, exist_ok=True)
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        **_profile_options(bundle),
    }
    if flag := _PRECISIONS.get(bundle.manifest.precision):
        options[flag] = "1"
    return options


def _graph_hash(bundle: Bundle) -> str:
    """Return the SHA-256 of the graph with its weights, in hexadecimal."""
    files = graph_files(bundle.graph.path, bundle.manifest)
    return hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()


def _profile_options(bundle: Bundle) -> dict[str, str]:
    """Return the shapes of all dynamic inputs, profile after profile."""
    limits, dynamic = bundle.manifest.axes, _dynamic_inputs(bundle)
    every = [input_shapes(bundle.graph, limits, profile) for profile in _profiles(bundle)]
    return {
        f"trt_profile_{size}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, shapes[name][index]))}" for shapes in every for name in dynamic
        )
        for index, size in enumerate(("min", "opt", "max"))
    }


def _profiles(bundle: Bundle) -> Sequence[Profile]:
    """Return the profiles of the bundle's first engine for the graph, or the default profile if there is no engine."""
    engines = read_engines(bundle.folder, bundle.manifest)
    built = [engine.profiles for engine in engines if engine.variant == bundle.graph.variant]
    return built[0] if built else [complete_profile(bundle.graph, bundle.manifest.axes)]


def _dynamic_inputs(bundle: Bundle) -> list[str]:
    return [spec.name for spec in bundle.graph.inputs if any(isinstance(axis, str) for axis in spec.shape)]
