"""A model that ONNX Runtime runs: its file, labels, warm-up, and settings that the backend reads."""

import math
from collections.abc import Iterator
from typing import Final

from rpln_runtime.triton.checks.common import check_parameters
from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.tensors import compare_tensors
from rpln_runtime.triton.errors import RepositoryError
from rpln_runtime.triton.onnx_signature import onnx_signature

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
    """The problems of a configuration for the onnxruntime backend."""
    if (model.config.get("platform"), model.config.get("backend")) != ("onnxruntime_onnx", "onnxruntime"):
        yield 'platform and backend are expected to be "onnxruntime_onnx" and "onnxruntime"'
    name = model.config.get("default_model_filename", "model.onnx")
    for version in model.versions:
        if not (version / name).is_file():
            yield f"{version.name}/{name} does not exist"
            continue
        try:
            signature = onnx_signature(version / name)
        except RepositoryError as error:
            yield str(error)
            continue
        for side, tensors in signature.items():
            # The batch is not among the dims of a configuration.
            expected = [tensor | {"dims": tensor["dims"][1:]} for tensor in tensors]
            yield from compare_tensors(side, model.config.get(side, []), expected, f"{version.name}/{name}")
    yield from check_parameters(model, _PARAMETERS)
    yield from _numbers(model)
    yield from _accelerators(model)
    yield from check_labels(model)
    yield from check_warmup(model)


def check_labels(model: Model) -> Iterator[str]:
    """Label files: Triton counts a label that is not there as an empty one."""
    for tensor in model.config.get("output", []):
        if "label_filename" not in tensor:
            continue
        path, count = model.folder / tensor["label_filename"], tensor.get("dims", [0])[-1]
        labels = path.read_text(encoding="utf-8").splitlines() if path.is_file() else None
        if labels is None:
            yield f"label_filename of {tensor.get('name')!r} is {path.name}, which does not exist"
        elif len(labels) != count:
            yield f"{path.name} holds {len(labels)} labels, the last axis of {tensor.get('name')!r} is {count} long"


def check_warmup(model: Model) -> Iterator[str]:
    """Warm-up requests: inputs that the model has, and files as long as they say."""
    types = {tensor.get("name"): tensor.get("data_type") for tensor in model.config.get("input", [])}
    for request in model.config.get("model_warmup", []):
        name = request.get("name", "")
        inputs = {row.get("key"): row.get("value", {}) for row in request.get("inputs", [])}
        if inputs.keys() != types.keys():
            ours, theirs = (", ".join(map(str, names)) for names in (inputs, types))
            yield f"model_warmup {name!r} has the inputs {ours}, the model {theirs}"
        if not 1 <= request.get("batch_size", 0) <= model.config.get("max_batch_size", 0):
            yield f"model_warmup {name!r} has the batch_size {request.get('batch_size')}, expected 1 to max_batch_size"
        for key, value in inputs.items():
            if value.get("data_type") != types.get(key):
                yield f"model_warmup {name!r} has {key!r} as {value.get('data_type')}, the model takes {types.get(key)}"
            if "input_data_file" in value:
                path = model.folder / "warmup" / value["input_data_file"]
                size = math.prod(value.get("dims", [])) * _ITEMSIZES.get(value.get("data_type", ""), 0)
                if not path.is_file() or path.stat().st_size != size:
                    yield f"model_warmup {name!r} reads warmup/{path.name}, expected a file of {size} bytes"


def _numbers(model: Model) -> Iterator[str]:
    for key, value in model.parameters.items():
        if key in _PARAMETERS and not (value or "").isdecimal():
            yield f"parameter {key!r} is {value!r}, expected a number"


def _accelerators(model: Model) -> Iterator[str]:
    accelerators = model.config.get("optimization", {}).get("execution_accelerators", {})
    on_gpu = any(group.get("kind") == "KIND_GPU" for group in model.config.get("instance_group", []))
    for field, known in _ACCELERATORS.items():
        for row in accelerators.get(field, []):
            if row.get("name") not in known:
                yield f"{field} is {row.get('name')!r}, expected {' or '.join(sorted(known))}"
            if on_gpu != field.startswith("gpu"):
                yield f"{field} {row.get('name')!r} has no effect on instances of {'a GPU' if on_gpu else 'the CPU'}"
