"""FIELDS: what an operator may change in a configuration, and within which limits.

Every other field must hold what `rpln triton` writes.
Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from rpln_runtime.errors import InputError
from rpln_runtime.triton.buckets import check_buckets
from rpln_runtime.triton.checks.reading import Config, FieldPath
from rpln_runtime.triton.plan import RepositoryPlan
from rpln_runtime.triton.request import options_from_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A field of a configuration that may have been changed.

    Attributes:
        path: its place.
        value: what it holds; None if it is not there or holds its default.
        written: what is written there, for another instance group that of the first one; None if nothing is.
        found: the whole configuration.
        plan: what the repository is written from.
        versions: the versions of the model.
    """

    path: FieldPath
    value: Any
    written: Any
    found: Config
    plan: RepositoryPlan
    versions: Collection[int]

    def beside(self, name: str) -> Any:
        """Return what the field `name` of the same message holds; None if it is not there."""
        return self.found.values.get((*self.path[:-1], name))


Check: TypeAlias = Callable[[Edit], str | None]
"""A function that returns what was expected, as "expected ...", or None for a value that is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field that may be changed.

    Attributes:
        path: its place; `[*]` stands for any element.
        roles: the roles of the models that it may be changed in.
        check: the limits.
        limits: the limits in words.
    """

    path: FieldPath
    roles: tuple[str, ...]
    check: Check
    limits: str

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


def _whole(minimum: int, maximum: int) -> tuple[Check, str]:
    words = f"{minimum:,} to {maximum:,}"
    return lambda edit: None if minimum <= (edit.value or 0) <= maximum else f"expected {words}", words


def _number(minimum: int, maximum: int) -> tuple[Check, str]:
    """Return the limits of a parameter, which is text, that holds a whole number."""
    words = f"{minimum:,} to {maximum:,}"

    def check(edit: Edit) -> str | None:
        text = edit.value or ""
        fitting = text.isdecimal() and len(text) < 20 and minimum <= int(text) <= maximum
        return None if fitting else f"expected a number, {words}"

    return check, words


def _one_of(*allowed: Any) -> tuple[Check, str]:
    """Return the limits of a field that holds one of `allowed`, among which None is the default."""
    words = " or ".join(str(value) for value in allowed if value is not None)
    return lambda edit: None if edit.value in allowed else f"expected {words}", words


def _any(words: str) -> tuple[Check, str]:
    return lambda _: None, words


def _text(words: str) -> tuple[Check, str]:
    return lambda edit: None if edit.value else f"expected {words}", words


def _preferred(edit: Edit) -> str | None:
    sizes, most = edit.value or [], edit.plan.batch_size
    rising = sizes == sorted(set(sizes)) and all(1 <= size <= most for size in sizes)
    return None if rising else f"expected rising numbers of 1 to max_batch_size, {most}"


def _levels_of(edit: Edit) -> int:
    return int(edit.found.values.get(("dynamic_batching", "priority_levels"), 0))


def _default_level(edit: Edit) -> str | None:
    levels, level = _levels_of(edit), edit.value or 0
    return None if min(levels, 1) <= level <= levels else f"expected {min(levels, 1)} to priority_levels, {levels}"


def _level(edit: Edit) -> str | None:
    levels, level = _levels_of(edit), edit.path[-1].strip("[]")
    known = level.isdecimal() and 1 <= int(level) <= levels
    return None if known else f"expected a level of 1 to priority_levels, {levels}"


def _one_policy(edit: Edit) -> str | None:
    kinds = [kind for kind in ("latest", "all", "specific") if ("version_policy", kind) in edit.found.values]
    return None if kinds else "expected latest, all or specific beside it"


def _versions(edit: Edit) -> str | None:
    known = ", ".join(map(str, sorted(edit.versions))) or "none"
    return (
        None if edit.value and set(edit.value) <= set(edit.versions) else f"expected versions that are there: {known}"
    )


def _groups(edit: Edit) -> str | None:
    return None if edit.found.elements("instance_group") else "expected at least one group"


def _kind(edit: Edit) -> str | None:
    return None if edit.value == edit.written else f"expected {edit.written}"


def _count(edit: Edit) -> str | None:
    if not 1 <= (edit.value or 0) <= _MOST_INSTANCES:
        return f"expected 1 to {_MOST_INSTANCES}"
    alone = _POLICY in edit.found.values and _instances(edit) == 1 < (edit.written or 1)
    return (
        f"expected 2 to {_MOST_INSTANCES}, for with a queue policy one instance waits between batches"
        if alone
        else None
    )


def _queue(edit: Edit) -> str | None:
    alone = edit.value is None and edit.written and _instances(edit) > 1
    return "expected a limit to the queue of several instances" if alone else None


def _instances(edit: Edit) -> int:
    """Return how many instances the model has in all."""
    groups = edit.found.elements("instance_group")
    return sum(int(edit.found.values.get(("instance_group", group, "count"), 0)) for group in groups)


def _gpus(edit: Edit) -> str | None:
    gpus = edit.value or []
    if gpus and edit.beside("kind") != "KIND_GPU":
        return "expected none on instances of the CPU"
    several = len(set(gpus)) == len(gpus) and all(0 <= gpu < _MOST_GPUS for gpu in gpus)
    return None if several else f"expected different numbers of 0 to {_MOST_GPUS - 1}"


def _accelerator_of(kind: str) -> tuple[Check, str]:
    def check(edit: Edit) -> str | None:
        kinds = {
            edit.found.values.get(("instance_group", key, "kind")) for key in edit.found.elements("instance_group")
        }
        return None if edit.value is None or kinds == {kind} else f"expected none, it has no effect without {kind}"

    return check, f"present or not, on {kind}"


def _profile(edit: Edit) -> str | None:
    profiles, known = edit.value or [], edit.written or []
    if bool(profiles) == bool(known) and set(profiles) <= set(known):
        return None
    return f"expected profiles of the engine: {', '.join(known) or 'none'}"


def _warmup(edit: Edit) -> str | None:
    most = edit.plan.manifest.usable_length
    return None if edit.value is None or edit.written else f'expected names of the form "16 tokens", 1 to {most:,}'


def _warmup_rows(edit: Edit) -> str | None:
    return None if 1 <= (edit.value or 0) <= edit.plan.batch_size else f"expected 1 to {edit.plan.batch_size}"


def _options(edit: Edit) -> str | None:
    try:
        found = options_from_text((edit.value or "").encode())
    except InputError as error:
        return str(error).rstrip(".")
    return None if found == edit.plan.options else f"expected {edit.written}, the same as in the other steps"


def _buckets(edit: Edit) -> str | None:
    try:
        check_buckets(lengths_from_text(edit.value or ""), edit.plan.manifest.usable_length)
    except InputError as error:
        return str(error).rstrip(".")
    return None


def lengths_from_text(text: str) -> tuple[int, ...]:
    """Return the lengths of the parameter `buckets`. Raises InputError for other text."""
    parts = text.split(",")
    if not all(part.isdecimal() and len(part) < 20 for part in parts):
        raise InputError("expected lengths in tokens with commas between them, such as 32,64,128")
    return tuple(map(int, parts))


_POLICY: Final = ("dynamic_batching", "default_queue_policy")
_MOST_INSTANCES: Final = 64
_MOST_GPUS: Final = 64
_STEPS: Final = ("tokenizer", "answers", "generator")
_GRAPHS: Final = ("onnx", "tensorrt")
_BATCHED: Final = (*_STEPS, *_GRAPHS)
_ALL: Final = ("ensemble", *_BATCHED)
_SWITCH: Final = _one_of("0", "1")
_FLAG: Final = _any("true or false")
_TENSORRT: Final = 'optimization.execution_accelerators.gpu_execution_accelerator["tensorrt"]'


def _row(at: str, roles: tuple[str, ...], limits: tuple[Check, str]) -> Field:
    """Return the row of the field `at`, which stands as in messages."""
    path = tuple(re.findall(r'\["[^"]*"\]|\[\*\]|[^.\[]+', at))
    return Field(path=path, roles=roles, check=limits[0], limits=limits[1])


def _parameter(name: str, roles: tuple[str, ...], limits: tuple[Check, str]) -> Field:
    return _row(f'parameters["{name}"].string_value', roles, limits)


def _policy(at: str) -> tuple[Field, ...]:
    """Return the rows of a queue policy: without a timeout, requests of clients that left stay queued."""
    return (
        _row(f"{at}.timeout_action", _BATCHED, _one_of(None, "REJECT", "DELAY")),
        _row(f"{at}.default_timeout_microseconds", _BATCHED, _whole(1_000, 600_000_000)),
        _row(f"{at}.allow_timeout_override", _BATCHED, _FLAG),
        _row(f"{at}.max_queue_size", _BATCHED, _whole(1, 65_536)),
    )


FIELDS: Final[tuple[Field, ...]] = (
    _row("version_policy.latest", _ALL, (_one_policy, "latest, all or specific")),
    _row("version_policy.latest.num_versions", _ALL, _whole(1, 1_000)),
    _row("version_policy.all", _ALL, _any("present or not")),
    _row("version_policy.specific.versions", _ALL, (_versions, "versions that are there")),
    _row("dynamic_batching.max_queue_delay_microseconds", _BATCHED, _whole(0, 100_000)),
    _row("dynamic_batching.preferred_batch_size", _BATCHED, (_preferred, "rising, 1 to max_batch_size")),
    _row("dynamic_batching.priority_levels", _BATCHED, _whole(0, 100)),
    _row("dynamic_batching.default_priority_level", _BATCHED, (_default_level, "1 to priority_levels")),
    _row("dynamic_batching.priority_queue_policy[*]", _BATCHED, (_level, "a level of 1 to priority_levels")),
    *_policy("dynamic_batching.priority_queue_policy[*]"),
    _row(".".join(_POLICY), _BATCHED, (_queue, "present or not, for one instance")),
    *_policy(".".join(_POLICY)),
    _row("instance_group[*]", _BATCHED, (_groups, "one or more")),
    _row("instance_group[*].name", _BATCHED, _any("any")),
    _row("instance_group[*].kind", _BATCHED, (_kind, "as written; KIND_CPU makes config.pbtxt one for the CPU")),
    _row("instance_group[*].count", _BATCHED, (_count, f"1 to {_MOST_INSTANCES}, with a queue policy 2 in all")),
    _row("instance_group[*].gpus", _BATCHED, (_gpus, "different GPUs, on KIND_GPU")),
    _row("instance_group[*].profile", _BATCHED, (_profile, "profiles of the engine")),
    _row("response_cache", ("ensemble",), _any("present or not")),
    _row("response_cache.enable", ("ensemble",), _FLAG),
    _row("model_warmup[*]", _GRAPHS, (_warmup, 'present or not, named "16 tokens"')),
    _row("model_warmup[*].batch_size", _GRAPHS, (_warmup_rows, "1 to max_batch_size")),
    _row("model_warmup[*].count", _GRAPHS, _whole(0, 1_000)),
    _parameter("options", _STEPS, (_options, "options of the task, the same in all steps")),
    _parameter("buckets", ("tokenizer",), (_buckets, "rising lengths, the last one the limit of the model")),
    # https://github.com/triton-inference-server/python_backend
    _parameter("EXECUTION_ENV_PATH", _STEPS, _text("the path of an environment")),
    _parameter("FORCE_CPU_ONLY_INPUT_TENSORS", _STEPS, _one_of("yes", "no")),
    # https://github.com/triton-inference-server/onnxruntime_backend#model-config-options
    _parameter("intra_op_thread_count", ("onnx",), _number(0, 1_024)),
    _parameter("inter_op_thread_count", ("onnx",), _number(0, 1_024)),
    _parameter("execution_mode", ("onnx",), _SWITCH),
    _parameter("enable_mem_arena", ("onnx",), _SWITCH),
    _parameter("enable_mem_pattern", ("onnx",), _SWITCH),
    _parameter("memory.enable_memory_arena_shrinkage", ("onnx",), _text("devices, such as cpu:0;gpu:0")),
    _parameter("session.use_device_allocator_for_initializers", ("onnx",), _SWITCH),
    _row("optimization.graph.level", ("onnx",), _one_of(None, -1, 1, 2)),
    _row("optimization.input_pinned_memory.enable", _GRAPHS, _FLAG),
    _row("optimization.output_pinned_memory.enable", _GRAPHS, _FLAG),
    _row("optimization.eager_batching", _GRAPHS, _FLAG),
    _row("optimization.gather_kernel_buffer_threshold", _GRAPHS, _whole(0, 2**31 - 1)),
    # Not precision_mode: the types are in the graph.
    _row(_TENSORRT, ("onnx",), _accelerator_of("KIND_GPU")),
    _row(f'{_TENSORRT}.parameters["max_workspace_size_bytes"]', ("onnx",), _number(1, 2**40)),
    _row(f'{_TENSORRT}.parameters["trt_engine_cache_enable"]', ("onnx",), _SWITCH),
    _row(f'{_TENSORRT}.parameters["trt_engine_cache_path"]', ("onnx",), _text("a folder")),
    _row(f'{_TENSORRT}.parameters["trt_timing_cache_enable"]', ("onnx",), _SWITCH),
    _row(f'{_TENSORRT}.parameters["trt_timing_cache_path"]', ("onnx",), _text("a folder")),
    _row(
        'optimization.execution_accelerators.cpu_execution_accelerator["openvino"]',
        ("onnx",),
        _accelerator_of("KIND_CPU"),
    ),
    _row("optimization.cuda.graphs", ("tensorrt",), _FLAG),
    _row("optimization.cuda.busy_wait_events", ("tensorrt",), _FLAG),
    _row("optimization.cuda.output_copy_stream", ("tensorrt",), _FLAG),
)
