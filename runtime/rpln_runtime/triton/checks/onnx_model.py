"""A model that ONNX Runtime runs: its files, labels, warm-up requests, and settings that the backend reads."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rpln_runtime.engines.manifest import graph_files
from rpln_runtime.errors import RplnError
from rpln_runtime.manifest import MANIFEST_NAME, bundle_file_from_path
from rpln_runtime.triton.checks.common import check_parameters
from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.reading import enum_name
from rpln_runtime.triton.checks.tensors import compare_with_graph
from rpln_runtime.triton.steps.bundle import manifest_of_step

_ITEMSIZES: Final = {"TYPE_INT64": 8, "TYPE_INT32": 4, "TYPE_FP32": 4, "TYPE_FP16": 2}
# https://github.com/triton-inference-server/onnxruntime_backend#model-config-options
_PARAMETERS: Final = frozenset(
    {
        "intra_op_thread_count",
        "inter_op_thread_count",
        "execution_mode",
        "enable_mem_arena",
        "enable_mem_pattern",
        "memory.enable_memory_arena_shrinkage",
        "session.use_device_allocator_for_initializers",
    }
)
_ACCELERATORS: Final = {
    "gpu_execution_accelerator": frozenset({"cuda", "tensorrt"}),
    "cpu_execution_accelerator": frozenset({"openvino"}),
}


def check_onnx_model(model: Model) -> Iterator[str]:
    """Yield the problems of a configuration for the onnxruntime backend."""
    if (model.config.platform, model.config.backend) != ("onnxruntime_onnx", "onnxruntime"):
        yield 'platform and backend are expected to be "onnxruntime_onnx" and "onnxruntime"'
    for version in model.versions:
        try:
            yield from _check_version(model, version)
        except RplnError as error:
            yield str(error)
    yield from check_parameters(model, _PARAMETERS)
    yield from _numbers(model)
    yield from _accelerators(model)
    yield from check_labels(model)
    yield from check_warmup(model)


def _check_version(model: Model, version: Path) -> Iterator[str]:
    """Compare with the manifest of the bundle: the files by SHA-256, and the tensors with those of its graph."""
    name = model.config.default_model_filename or "model.onnx"
    manifest = manifest_of_step(version)
    files = graph_files(name, manifest)
    if name not in (file.path for file in files):
        yield f"{version.name}/{name} is not a graph of the bundle that {MANIFEST_NAME} describes"
    for file in files:
        path = version / file.path
        if not path.is_file():
            yield f"{version.name}/{file.path} does not exist"
        elif bundle_file_from_path(version, path) != file:
            yield f"{version.name}/{file.path} is not the file that {MANIFEST_NAME} describes (SHA-256)"
    yield from compare_with_graph(model, manifest.graphs[0], f"{version.name}/{name}")


def check_labels(model: Model) -> Iterator[str]:
    """Yield the problems of files of labels. Triton takes a label that is missing for an empty one."""
    for tensor in model.config.output:
        if not tensor.label_filename:
            continue
        path, count = model.folder / tensor.label_filename, tensor.dims[-1] if tensor.dims else 0
        if not path.is_file():
            yield f"label_filename of {tensor.name!r} is {path.name}, which does not exist"
        elif (labels := len(path.read_bytes().splitlines())) != count:
            yield f"{path.name} holds {labels} labels, the last axis of {tensor.name!r} is {count} long"


def check_warmup(model: Model) -> Iterator[str]:
    """Yield the problems of warm-up requests: inputs that the model does not have, and files of another size."""
    types = {tensor["name"]: tensor["data_type"] for tensor in model.inputs}
    for request in model.config.model_warmup:
        where = f"model_warmup {request.name!r}"
        if request.inputs.keys() != types.keys():
            yield f"{where} has the inputs {', '.join(request.inputs)}, the model {', '.join(types)}"
        if not 1 <= request.batch_size <= model.config.max_batch_size:
            yield f"{where} has the batch_size {request.batch_size}, expected 1 to max_batch_size"
        for key, value in request.inputs.items():
            data_type = enum_name(value, "data_type")
            if data_type != types.get(key):
                yield f"{where} has {key!r} as {data_type}, the model takes {types.get(key)}"
            if value.input_data_file:
                path = model.folder / "warmup" / value.input_data_file
                size = math.prod(value.dims) * _ITEMSIZES.get(data_type, 0)
                if not path.is_file() or path.stat().st_size != size:
                    yield f"{where} reads warmup/{path.name}, expected a file of {size} bytes"


def _numbers(model: Model) -> Iterator[str]:
    for key, value in model.parameters.items():
        if key in _PARAMETERS and not value.isdecimal():
            yield f"parameter {key!r} is {value!r}, expected a number"


def _accelerators(model: Model) -> Iterator[str]:
    accelerators = model.config.optimization.execution_accelerators
    on_gpu = "KIND_GPU" in model.kinds
    for field, known in _ACCELERATORS.items():
        for row in getattr(accelerators, field):
            if row.name not in known:
                yield f"{field} is {row.name!r}, expected {' or '.join(sorted(known))}"
            if on_gpu != field.startswith("gpu"):
                yield f"{field} {row.name!r} has no effect on instances of {'a GPU' if on_gpu else 'the CPU'}"
