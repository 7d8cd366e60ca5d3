"""MODEL_CONFIG: the fields of a model configuration, by message, as `pbtxt.message_from_text` takes them.

Left out are those of what these repositories have no use for: sequences, ragged batches that a backend puts together,
agents, backends in C.
Source: model_config.proto of https://github.com/triton-inference-server/common, 2.51 (24.10).
"""

from typing import Any, Final

DATA_TYPES: Final = frozenset(
    f"TYPE_{name}"
    for name in (
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64", "STRING", "BF16"),
    )
)
KINDS: Final = frozenset({"KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"})
PRIORITIES: Final = frozenset({"PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN"})


def _map(value: Any) -> list[dict[str, Any]]:
    return [{"key": str, "value": value}]


_SHAPE: Final = {"shape": [int]}
_INPUT: Final = {
    "name": str,
    "data_type": DATA_TYPES,
    "dims": [int],
    "reshape": _SHAPE,
    "allow_ragged_batch": bool,
    "optional": bool,
}
_OUTPUT: Final = {"name": str, "data_type": DATA_TYPES, "dims": [int], "reshape": _SHAPE, "label_filename": str}
_QUEUE: Final = {
    "timeout_action": frozenset({"REJECT", "DELAY"}),
    "default_timeout_microseconds": int,
    "allow_timeout_override": bool,
    "max_queue_size": int,
}
_BATCHING: Final = {
    "preferred_batch_size": [int],
    "max_queue_delay_microseconds": int,
    "preserve_ordering": bool,
    "priority_levels": int,
    "default_priority_level": int,
    "default_queue_policy": _QUEUE,
    "priority_queue_policy": [{"key": int, "value": _QUEUE}],
}
_ACCELERATOR: Final = {"name": str, "parameters": _map(str)}
_GRAPH_INPUTS: Final = _map({"dim": [int]})
_OPTIMIZATION: Final = {
    "graph": {"level": int},
    "priority": PRIORITIES,
    "cuda": {
        "graphs": bool,
        "busy_wait_events": bool,
        "graph_spec": [
            {
                "batch_size": int,
                "input": _GRAPH_INPUTS,
                "graph_lower_bound": {"batch_size": int, "input": _GRAPH_INPUTS},
            }
        ],
        "output_copy_stream": bool,
    },
    "execution_accelerators": {
        "gpu_execution_accelerator": [_ACCELERATOR],
        "cpu_execution_accelerator": [_ACCELERATOR],
    },
    "input_pinned_memory": {"enable": bool},
    "output_pinned_memory": {"enable": bool},
    "gather_kernel_buffer_threshold": int,
    "eager_batching": bool,
}
_INSTANCES: Final = {
    "name": str,
    "kind": KINDS,
    "count": int,
    "rate_limiter": {"resources": [{"name": str, "global": bool, "count": int}], "priority": int},
    "gpus": [int],
    "profile": [str],
    "passive": bool,
    "host_policy": str,
}
_WARMUP_INPUT: Final = {
    "data_type": DATA_TYPES,
    "dims": [int],
    "zero_data": bool,
    "random_data": bool,
    "input_data_file": str,
}
_STEP: Final = {"model_name": str, "model_version": int, "input_map": _map(str), "output_map": _map(str)}

MODEL_CONFIG: Final[dict[str, Any]] = {
    "name": str,
    "platform": str,
    "backend": str,
    "version_policy": {"latest": {"num_versions": int}, "all": {}, "specific": {"versions": [int]}},
    "max_batch_size": int,
    "input": [_INPUT],
    "output": [_OUTPUT],
    "optimization": _OPTIMIZATION,
    "dynamic_batching": _BATCHING,
    "ensemble_scheduling": {"step": [_STEP]},
    "instance_group": [_INSTANCES],
    "default_model_filename": str,
    "metric_tags": _map(str),
    "parameters": _map({"string_value": str}),
    "model_warmup": [{"name": str, "batch_size": int, "inputs": _map(_WARMUP_INPUT), "count": int}],
    "model_transaction_policy": {"decoupled": bool},
    "response_cache": {"enable": bool},
}
