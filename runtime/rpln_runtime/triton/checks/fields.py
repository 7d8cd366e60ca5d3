"""FIELDS: what an operator may change in a configuration, and within which limits.

Every other field must hold what `rpln triton` writes.
Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

import re
from dataclasses import dataclass
from typing import Final

from rpln_runtime.triton.checks import limits
from rpln_runtime.triton.checks.reading import FieldPath
from rpln_runtime.triton.plan import MOST_TEXT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field that may be changed.

    Attributes:
        path: its place; `[*]` stands for any element.
        roles: the roles of the models that it may be changed in.
        check: the limits.
    """

    path: FieldPath
    roles: tuple[str, ...]
    check: limits.Check

    def matches(self, path: FieldPath) -> bool:
        """Return whether `path` is a place of this field."""
        return fits(self.path, path)

    def lies_in(self, path: FieldPath) -> bool:
        """Return whether `path` is a place of this field, or of a message that holds it."""
        return fits(self.path[: len(path)], path)


def fits(pattern: FieldPath, path: FieldPath) -> bool:
    """Return whether `path` is one that `pattern` stands for."""
    return len(pattern) == len(path) and all(
        part.startswith("[") if expected == "[*]" else part == expected
        for expected, part in zip(pattern, path, strict=True)
    )


_STEPS: Final = ("tokenizer", "answers", "generator")
_GRAPHS: Final = ("onnx", "tensorrt")
_BATCHED: Final = (*_STEPS, *_GRAPHS)
_ALL: Final = ("ensemble", *_BATCHED)
_SWITCH: Final = limits.one_of("0", "1")
_FLAG: Final = limits.anything
_TENSORRT: Final = 'optimization.execution_accelerators.gpu_execution_accelerator["tensorrt"]'


def _row(at: str, roles: tuple[str, ...], check: limits.Check) -> Field:
    """Return the row of the field `at`, which stands as in messages."""
    path = tuple(re.findall(r'\["[^"]*"\]|\[\*\]|[^.\[]+', at))
    return Field(path=path, roles=roles, check=check)


def _parameter(name: str, roles: tuple[str, ...], check: limits.Check) -> Field:
    return _row(f'parameters["{name}"].string_value', roles, check)


def _policy(at: str) -> tuple[Field, ...]:
    """Return the rows of a queue policy: without a timeout, requests of clients that left stay queued."""
    return (
        _row(f"{at}.timeout_action", _BATCHED, limits.one_of(None, "REJECT", "DELAY")),
        _row(f"{at}.default_timeout_microseconds", _BATCHED, limits.whole(1_000, 600_000_000)),
        _row(f"{at}.allow_timeout_override", _BATCHED, _FLAG),
        _row(f"{at}.max_queue_size", _BATCHED, limits.whole(1, 65_536)),
    )


FIELDS: Final[tuple[Field, ...]] = (
    _row("version_policy.latest", _ALL, limits.version_kind),
    _row("version_policy.latest.num_versions", _ALL, limits.whole(1, 1_000)),
    _row("version_policy.all", _ALL, limits.anything),
    _row("version_policy.specific.versions", _ALL, limits.versions),
    _row("dynamic_batching.max_queue_delay_microseconds", _BATCHED, limits.whole(0, 100_000)),
    _row("dynamic_batching.preferred_batch_size", _BATCHED, limits.preferred),
    _row("dynamic_batching.priority_levels", _BATCHED, limits.whole(0, 100)),
    _row("dynamic_batching.default_priority_level", _BATCHED, limits.default_priority),
    _row("dynamic_batching.priority_queue_policy[*]", _BATCHED, limits.priority),
    *_policy("dynamic_batching.priority_queue_policy[*]"),
    _row("dynamic_batching.default_queue_policy", _BATCHED, limits.queue_policy),
    *_policy("dynamic_batching.default_queue_policy"),
    _row("instance_group[*]", _BATCHED, limits.groups),
    _row("instance_group[*].name", _BATCHED, limits.anything),
    _row("instance_group[*].kind", _BATCHED, limits.kind),
    _row("instance_group[*].count", _BATCHED, limits.count),
    _row("instance_group[*].gpus", _BATCHED, limits.gpus),
    _row("instance_group[*].profile", _BATCHED, limits.profile),
    _row("response_cache", ("ensemble",), limits.anything),
    _row("response_cache.enable", ("ensemble",), _FLAG),
    _row("model_warmup[*]", _GRAPHS, limits.warmup),
    _row("model_warmup[*].batch_size", _GRAPHS, limits.rows),
    _row("model_warmup[*].count", _GRAPHS, limits.whole(0, 1_000)),
    _parameter("options", _STEPS, limits.options),
    _parameter("buckets", ("tokenizer",), limits.buckets),
    _parameter("max_text_bytes", ("tokenizer", "generator"), limits.number(1, MOST_TEXT_BYTES)),
    # https://github.com/triton-inference-server/python_backend
    _parameter("EXECUTION_ENV_PATH", _STEPS, limits.text("the path of an environment")),
    _parameter("FORCE_CPU_ONLY_INPUT_TENSORS", _STEPS, limits.one_of("yes", "no")),
    # https://github.com/triton-inference-server/onnxruntime_backend#model-config-options
    _parameter("intra_op_thread_count", ("onnx",), limits.number(0, 1_024)),
    _parameter("inter_op_thread_count", ("onnx",), limits.number(0, 1_024)),
    _parameter("execution_mode", ("onnx",), _SWITCH),
    _parameter("enable_mem_arena", ("onnx",), _SWITCH),
    _parameter("enable_mem_pattern", ("onnx",), _SWITCH),
    _parameter("memory.enable_memory_arena_shrinkage", ("onnx",), limits.text("devices, such as cpu:0;gpu:0")),
    _parameter("session.use_device_allocator_for_initializers", ("onnx",), _SWITCH),
    _row("optimization.graph.level", ("onnx",), limits.one_of(None, -1, 1, 2)),
    _row("optimization.input_pinned_memory.enable", _GRAPHS, _FLAG),
    _row("optimization.output_pinned_memory.enable", _GRAPHS, _FLAG),
    _row("optimization.eager_batching", _GRAPHS, _FLAG),
    _row("optimization.gather_kernel_buffer_threshold", _GRAPHS, limits.whole(0, 2**31 - 1)),
    # Not precision_mode: the types are in the graph.
    _row(_TENSORRT, ("onnx",), limits.accelerator_of("KIND_GPU")),
    _row(f'{_TENSORRT}.parameters["max_workspace_size_bytes"]', ("onnx",), limits.number(1, 2**40)),
    _row(f'{_TENSORRT}.parameters["trt_engine_cache_enable"]', ("onnx",), _SWITCH),
    _row(f'{_TENSORRT}.parameters["trt_engine_cache_path"]', ("onnx",), limits.text("a folder")),
    _row(f'{_TENSORRT}.parameters["trt_timing_cache_enable"]', ("onnx",), _SWITCH),
    _row(f'{_TENSORRT}.parameters["trt_timing_cache_path"]', ("onnx",), limits.text("a folder")),
    _row(
        'optimization.execution_accelerators.cpu_execution_accelerator["openvino"]',
        ("onnx",),
        limits.accelerator_of("KIND_CPU"),
    ),
    _row("optimization.cuda.graphs", ("tensorrt",), _FLAG),
    _row("optimization.cuda.busy_wait_events", ("tensorrt",), _FLAG),
    _row("optimization.cuda.output_copy_stream", ("tensorrt",), _FLAG),
)
