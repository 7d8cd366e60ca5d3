"""The parts that configurations of all models are made of."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from rpln_runtime._version import __version__
from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.manifest import TensorSpec
from rpln_runtime.triton.pbtxt import Message, Word, entries

TRITON_TYPES: Final = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16", "int64": "TYPE_INT64"}
"""Triton's name of each dtype that a manifest may have."""

VERSION_PARAMETER: Final = "rpln_runtime"
LATEST: Final[Message] = {"latest": {"num_versions": 1}}

_DELAY_MICROSECONDS: Final = 1000
_QUEUE_SECONDS: Final = 30
_QUEUE_SIZE: Final = 1024
_INSTANCES: Final = 2


def tensor(name: str, data_type: str, *dims: int) -> Message:
    """Return an input or output. Its `dims` leave out the batch axis."""
    return {"name": name, "data_type": Word(data_type), "dims": list(dims)}


def tensor_from_spec(spec: TensorSpec) -> Message:
    """Return the input or output that `spec` describes; its first axis is the batch."""
    return tensor(
        spec.name, TRITON_TYPES[spec.dtype], *(axis if isinstance(axis, int) else -1 for axis in spec.shape[1:])
    )


def batching(preferred: Sequence[int] = ()) -> Message:
    """Return a dynamic batcher, in which a request waits up to a millisecond for others that it can run with.

    A request is refused when the queue is full, or after half a minute in it. Every step, and a generator, has this
    policy, because the queue forms at the slowest one, and two instances: with any field of the policy set, Triton
    24.10 does not fetch the next batch in advance, and a single instance often waits half a second between two batches.
    """
    sizes = {"preferred_batch_size": list(preferred)} if preferred else {}
    policy = {
        "timeout_action": Word("REJECT"),
        "default_timeout_microseconds": _QUEUE_SECONDS * 1_000_000,
        "allow_timeout_override": True,
        "max_queue_size": _QUEUE_SIZE,
    }
    return {**sizes, "max_queue_delay_microseconds": _DELAY_MICROSECONDS, "default_queue_policy": policy}


def kind_of_provider(provider: str) -> str:
    """Return the kind of instances that `provider`, a row of PROVIDERS, runs on."""
    return "KIND_CPU" if PROVIDERS[provider].device == "cpu" else "KIND_GPU"


def instances(kind: str, *, profile: Sequence[str] = ()) -> list[Message]:
    """Return a group of two instances on each device, as many as the policy of `batching` needs."""
    return [{"kind": Word(kind), "count": _INSTANCES, **({"profile": list(profile)} if profile else {})}]


def parameters(values: Mapping[str, str]) -> list[Message]:
    """Return settings of a backend."""
    return entries({name: {"string_value": value} for name, value in values.items()})


def python_parameters(values: Mapping[str, str]) -> list[Message]:
    """Return settings of a model in Python, with the version of rpln-runtime whose code it runs."""
    return parameters({**values, VERSION_PARAMETER: __version__})


def warmup(specs: Sequence[TensorSpec], length: int) -> Message:
    """Return a warm-up request: a row of `length` tokens, zeros but for masks, which are ones and read from a file."""
    inputs = {}
    for spec in specs:
        dims = _dims(spec, length)
        data = {"input_data_file": ones_file(dims)} if spec.name.endswith("mask") else {"zero_data": True}
        inputs[spec.name] = {"data_type": Word(TRITON_TYPES[spec.dtype]), "dims": dims, **data}
    return {"name": f"{length} tokens", "batch_size": 1, "inputs": entries(inputs)}


def warmup_files(specs: Sequence[TensorSpec], lengths: Sequence[int]) -> dict[str, bytes]:
    """Return the files that warm-up requests of these lengths read, by name. They belong in the folder `warmup`."""
    masks = [spec for spec in specs if spec.name.endswith("mask")]
    shapes = [(_dims(spec, length), spec.dtype) for spec in masks for length in lengths]
    return {ones_file(dims): np.ones(dims, dtype).tobytes() for dims, dtype in shapes}


def ones_file(dims: Sequence[int]) -> str:
    """Return the name of the file that holds a tensor of ones."""
    return f"ones_{math.prod(dims)}"


def _dims(spec: TensorSpec, length: int) -> list[int]:
    sizes = {"sequence": length}
    return [axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in spec.shape[1:]]
