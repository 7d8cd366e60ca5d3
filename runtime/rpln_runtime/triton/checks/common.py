"""What holds for every model: names, versions, batches, queues, instances, parameters."""

from collections.abc import Iterator
from typing import Final

from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.plan import MOST_ROWS

_FIRST_FIELDS: Final = ("name", "max_batch_size", "version_policy", "input", "output")
_KINDS: Final = {"config.pbtxt": None, "cpu.pbtxt": "KIND_CPU"}


def check_common(model: Model) -> Iterator[str]:
    """The problems of a configuration that do not depend on what runs it."""
    for field in _FIRST_FIELDS:
        if field not in model.config:
            yield f"{field} is missing"
    if model.config.get("name", model.name) != model.name:
        yield f"name is {model.config['name']!r} in the folder {model.name!r}: Triton wants them equal"
    if model.config.get("max_batch_size", 1) < 1:
        yield f"max_batch_size is {model.config['max_batch_size']}: nothing is joined, and a batch axis is refused"
    if model.config.get("max_batch_size", 1) > MOST_ROWS:
        yield f"max_batch_size is {model.config['max_batch_size']}, expected at most {MOST_ROWS}"
    yield from _versions(model)
    yield from _dims(model)
    yield from _batching(model)
    yield from _instances(model)


def check_parameters(model: Model, known: frozenset[str], needed: frozenset[str] = frozenset()) -> Iterator[str]:
    """Keys that nothing reads: Triton passes them on without a word."""
    keys = [row.get("key", "") for row in model.config.get("parameters", [])]
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
    policy = model.config.get("version_policy", {})
    if policy.get("latest", {}).get("num_versions", 1) < 1:
        yield "version_policy asks for no version: expected num_versions 1 or more"
    for version in policy.get("specific", {}).get("versions", []):
        if version not in versions:
            found = ", ".join(map(str, sorted(versions)))
            yield f"version_policy asks for version {version}, there is {found or 'none'}"


def _dims(model: Model) -> Iterator[str]:
    for side in ("input", "output"):
        for tensor in model.config.get(side, []):
            if not tensor.get("dims") or any(size < 1 and size != -1 for size in tensor["dims"]):
                yield f"dims of {side} {tensor.get('name')!r} is {tensor.get('dims', [])}, expected sizes, -1 for any"


def _batching(model: Model) -> Iterator[str]:
    batching = model.config.get("dynamic_batching")
    if batching is None:
        return
    if model.config.get("max_batch_size", 0) < 1:
        yield "dynamic_batching has no effect without max_batch_size: requests run one by one"
    for size in batching.get("preferred_batch_size", []):
        if not 1 <= size <= model.config.get("max_batch_size", 0):
            yield f"preferred_batch_size is {size}, expected 1 to max_batch_size, {model.config.get('max_batch_size')}"
    policy = batching.get("default_queue_policy", {})
    for where, name in ((batching, "max_queue_delay_microseconds"), *((policy, name) for name in policy)):
        if not isinstance(where.get(name, 0), str) and where.get(name, 0) < 0:
            yield f"{name} is {where[name]}, expected 0 or more"
    if policy.get("timeout_action") == "DELAY" and policy.get("max_queue_size", 0) == 0:
        yield "default_queue_policy delays what is late and bounds no queue: expected REJECT, or a max_queue_size"
    if policy and not policy.get("default_timeout_microseconds"):
        yield "default_queue_policy has no default_timeout_microseconds: who left still waits in the queue"

    alone = sum(group.get("count", 1) for group in model.config.get("instance_group", [{}])) < 2
    if policy and alone and model.role != "generator":
        yield "default_queue_policy makes a single instance wait half a second between batches: raise count to 2"


def _instances(model: Model) -> Iterator[str]:
    expected = _KINDS.get(model.file.name)
    for group in model.config.get("instance_group", []):
        if group.get("count", 1) < 1:
            yield f"instance_group has the count {group['count']}, expected 1 or more: Triton takes it for 1 or none"
        kind = group.get("kind", "KIND_AUTO")
        if expected and kind != expected:
            yield f"instance_group is of {kind}, which needs a GPU in a configuration for servers without: {expected}"
        if group.get("gpus") and kind != "KIND_GPU":
            yield f"instance_group names gpus, which {kind} takes no notice of"
        if len(set(group.get("gpus", []))) != len(group.get("gpus", [])):
            yield "instance_group names a GPU twice: raise count instead"
