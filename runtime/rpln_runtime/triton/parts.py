"""What the configurations of all models have in common."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from rpln_runtime._version import __version__
from rpln_runtime.manifest import TensorSpec
from rpln_runtime.triton.pbtxt import Message, Word, entries

TRITON_TYPES: Final = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16", "int64": "TYPE_INT64"}
"""By the dtypes of a manifest."""

KINDS: Final[Mapping[str | None, str]] = {"cuda": "KIND_GPU", "cpu": "KIND_CPU"}
"""Of instances, by provider."""
VERSION_PARAMETER: Final = "rpln_runtime"
LATEST: Final[Message] = {"latest": {"num_versions": 1}}

_DELAY_MICROSECONDS: Final = 1000
_QUEUE_SECONDS: Final = 30
_QUEUE_SIZE: Final = 1024


def tensor(name: str, data_type: str, *dims: int) -> Message:
    """An input or output; the batch is not among its `dims`."""
    return {"name": name, "data_type": Word(data_type), "dims": list(dims)}


def tensor_from_spec(spec: TensorSpec) -> Message:
    """That of a graph, whose first axis is the batch."""
    return tensor(
        spec.name, TRITON_TYPES[spec.dtype], *(axis if isinstance(axis, int) else -1 for axis in spec.shape[1:])
    )


def batching(preferred: Sequence[int] = ()) -> Message:
    """A dynamic batcher, in which requests wait a millisecond for others."""
    sizes = {"preferred_batch_size": list(preferred)} if preferred else {}
    return {**sizes, "max_queue_delay_microseconds": _DELAY_MICROSECONDS}


def entrance() -> Message:
    """The batcher where requests come in: they are refused after half a minute in the queue, or when it is long.

    Only there, and with two instances: with a queue policy Triton 24.10 fetches no batch ahead, and an instance that is
    alone then waits for half a second between two of them.
    """
    policy = {
        "timeout_action": Word("REJECT"),
        "default_timeout_microseconds": _QUEUE_SECONDS * 1_000_000,
        "allow_timeout_override": True,
        "max_queue_size": _QUEUE_SIZE,
    }
    return {**batching(), "default_queue_policy": policy}


def instances(kind: str, *, count: int = 1, profile: Sequence[str] = ()) -> list[Message]:
    """So many instances on each device."""
    return [{"kind": Word(kind), "count": count, **({"profile": list(profile)} if profile else {})}]


def parameters(values: Mapping[str, str]) -> list[Message]:
    """Settings of a backend."""
    return entries({name: {"string_value": value} for name, value in values.items()})


def python_parameters(values: Mapping[str, str]) -> list[Message]:
    """Settings of a step, with the version whose code it runs."""
    return parameters({**values, VERSION_PARAMETER: __version__})


def warmup(specs: Sequence[TensorSpec], length: int) -> Message:
    """A request of one row of `length` tokens; those of a mask are ones from a file, as zeros would mask everything."""
    inputs = {}
    for spec in specs:
        dims = _dims(spec, length)
        data = {"input_data_file": ones_file(dims)} if spec.name.endswith("mask") else {"zero_data": True}
        inputs[spec.name] = {"data_type": Word(TRITON_TYPES[spec.dtype]), "dims": dims, **data}
    return {"name": f"{length} tokens", "batch_size": 1, "inputs": entries(inputs)}


def warmup_files(specs: Sequence[TensorSpec], lengths: Sequence[int]) -> dict[str, bytes]:
    """The files that `warmup` names, in the model's folder warmup."""
    masks = [spec for spec in specs if spec.name.endswith("mask")]
    shapes = [(_dims(spec, length), spec.dtype) for spec in masks for length in lengths]
    return {ones_file(dims): np.ones(dims, dtype).tobytes() for dims, dtype in shapes}


def ones_file(dims: Sequence[int]) -> str:
    """The name of a file of so many ones."""
    return f"ones_{math.prod(dims)}"


def _dims(spec: TensorSpec, length: int) -> list[int]:
    sizes = {"sequence": length}
    return [axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in spec.shape[1:]]
