"""What holds for every model: its name, versions, batches, queues, instances and parameters."""

from collections.abc import Iterator
from typing import Any, Final

from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.reading import enum_name

_KINDS: Final = {"config.pbtxt": None, "cpu.pbtxt": "KIND_CPU"}
"""What instances must run on, by the name of the configuration; None where the configuration may choose."""


def check_common(model: Model) -> Iterator[str]:
    """Yield the problems of a configuration that do not depend on what runs the model."""
    config = model.config
    if config.name != model.name:
        yield f"name is {config.name!r} in the folder {model.name!r}: Triton wants them equal"
    for field in ("input", "output"):
        if not getattr(config, field):
            yield f"{field} is missing"
    if config.max_batch_size < 1:
        yield (
            f"max_batch_size is {config.max_batch_size}, expected 1 or more: without batches Triton joins no requests, "
            "and refuses tensors with a batch axis"
        )
    yield from _versions(model)
    yield from _dims(model)
    if config.HasField("dynamic_batching"):
        yield from _batching(model, config.dynamic_batching)
    yield from _instances(model)


def check_parameters(model: Model, known: frozenset[str], needed: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the keys that nothing reads, which Triton accepts silently, and those of `needed` that are missing."""
    keys = [entry.key for entry in model.config.parameters]
    for key in keys:
        if key not in known | needed:
            yield f"parameters has the key {key!r}, which nothing reads: expected {', '.join(sorted(known | needed))}"
    for key in sorted({key for key in keys if keys.count(key) > 1}):
        yield f"parameters has the key {key!r} {keys.count(key)} times: the last one counts"
    for key in sorted(needed - set(keys)):
        yield f"parameters lacks the key {key!r}"


def _versions(model: Model) -> Iterator[str]:
    versions = {int(path.name) for path in model.versions}
    if not versions:
        yield "there is no version: expected a folder named 1 beside the configuration"
    policy = model.config.version_policy
    if not model.config.HasField("version_policy"):
        yield "version_policy is missing"
    if policy.HasField("latest") and policy.latest.num_versions < 1:
        yield "version_policy asks for no version: expected num_versions 1 or more"
    for version in policy.specific.versions:
        if version not in versions:
            found = ", ".join(map(str, sorted(versions)))
            yield f"version_policy asks for version {version}, there is {found or 'none'}"


def _dims(model: Model) -> Iterator[str]:
    for side, tensors in model.sides.items():
        for tensor in tensors:
            if not tensor["dims"] or any(size < 1 and size != -1 for size in tensor["dims"]):
                yield (
                    f"dims of {side} {tensor['name']!r} is {tensor['dims']}, expected sizes of 1 or more, and -1 for "
                    "an axis of any size"
                )


def _batching(model: Model, batching: Any) -> Iterator[str]:
    rows = model.config.max_batch_size
    if rows < 1:
        yield "dynamic_batching has no effect without max_batch_size: requests run one by one"
    for size in batching.preferred_batch_size:
        if not 1 <= size <= rows:
            yield f"preferred_batch_size is {size}, expected 1 to max_batch_size, {rows}"
    single = sum(group.count for group in model.config.instance_group) < 2
    if batching.HasField("default_queue_policy"):
        yield from _queue(batching.default_queue_policy, single=single)
    elif not single:
        yield "default_queue_policy is missing: nothing limits the queue, and requests wait however long"


def _queue(policy: Any, *, single: bool) -> Iterator[str]:
    if enum_name(policy, "timeout_action") == "DELAY" and policy.max_queue_size == 0:
        yield (
            "default_queue_policy keeps requests that are late and sets no limit to the queue: expected REJECT, or a "
            "max_queue_size"
        )
    if policy.default_timeout_microseconds == 0:
        yield "default_queue_policy has no default_timeout_microseconds: requests of clients that left stay queued"
    if single:
        yield (
            "default_queue_policy makes a single instance wait half a second between batches: raise count to 2, or "
            "leave the policy out"
        )


def _instances(model: Model) -> Iterator[str]:
    expected = _KINDS.get(model.file.name)
    for group, kind in zip(model.config.instance_group, model.kinds, strict=True):
        if group.count < 1:
            yield f"instance_group has the count {group.count}, expected 1 or more: Triton reads it as 1 or starts none"
        if expected and kind != expected:
            yield f"instance_group is of {kind}, expected {expected} in a configuration for servers without a GPU"
        if group.gpus and kind != "KIND_GPU":
            yield f"instance_group names gpus, which have no effect on instances of {kind}"
        if len(set(group.gpus)) != len(group.gpus):
            yield "instance_group names a GPU twice: raise count instead"
