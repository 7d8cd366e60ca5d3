"""What may stand in the fields of FIELDS: functions that look at an edit, and return what was expected instead."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from rpln_runtime.errors import InputError
from rpln_runtime.triton.buckets import check_buckets, lengths_from_text
from rpln_runtime.triton.checks.reading import Config, FieldPath
from rpln_runtime.triton.digits import number_from_text
from rpln_runtime.triton.plan import RepositoryPlan
from rpln_runtime.triton.request import options_from_text

_POLICY: Final = ("dynamic_batching", "default_queue_policy")
_MOST_INSTANCES: Final = 64
_MOST_GPUS: Final = 64


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


Check: TypeAlias = Callable[[Edit], str | None]
"""A function that returns what was expected, as "expected ...", or None for a value that is allowed."""


def anything(_: Edit) -> None:
    """Allow every value."""


def whole(minimum: int, maximum: int) -> Check:
    """Allow integers from `minimum` to `maximum`."""
    return lambda edit: None if minimum <= (edit.value or 0) <= maximum else f"expected {minimum:,} to {maximum:,}"


def number(minimum: int, maximum: int) -> Check:
    """Allow text that holds an integer from `minimum` to `maximum`."""

    def check(edit: Edit) -> str | None:
        found = number_from_text(edit.value or "")
        fits = found is not None and minimum <= found <= maximum
        return None if fits else f"expected a number, {minimum:,} to {maximum:,}"

    return check


def one_of(*allowed: Any) -> Check:
    """Allow these values, among which None is the default of the field."""
    words = " or ".join(str(value) for value in allowed if value is not None)
    return lambda edit: None if edit.value in allowed else f"expected {words}"


def text(words: str) -> Check:
    """Allow any text but an empty one; `words` say what it is."""
    return lambda edit: None if edit.value else f"expected {words}"


def version_kind(edit: Edit) -> str | None:
    """Allow a message to be left out where another one says which versions are served."""
    kinds = [kind for kind in ("latest", "all", "specific") if ("version_policy", kind) in edit.found.values]
    return None if kinds else "expected latest, all or specific beside it"


def versions(edit: Edit) -> str | None:
    """Allow versions that the model has."""
    if edit.value and set(edit.value) <= set(edit.versions):
        return None
    return f"expected versions that are there: {', '.join(map(str, sorted(edit.versions))) or 'none'}"


def preferred(edit: Edit) -> str | None:
    """Allow sizes of batches that the model takes, in rising order."""
    sizes, most = edit.value or [], edit.plan.batch_size
    rising = sizes == sorted(set(sizes)) and all(1 <= size <= most for size in sizes)
    return None if rising else f"expected rising numbers of 1 to max_batch_size, {most}"


def default_priority(edit: Edit) -> str | None:
    """Allow one of the levels of priority; 0 where there are none."""
    levels = _levels_of(edit)
    least = min(levels, 1)
    return None if least <= (edit.value or 0) <= levels else f"expected {least} to priority_levels, {levels}"


def priority(edit: Edit) -> str | None:
    """Allow a queue policy for each of the levels of priority."""
    levels, level = _levels_of(edit), int(edit.path[-1].strip("[]").partition(",")[0])
    return None if 1 <= level <= levels else f"expected a level of 1 to priority_levels, {levels}"


def queue_policy(edit: Edit) -> str | None:
    """Allow a single instance without a queue policy, where one is written."""
    lacks = edit.value is None and edit.written is not None and _instances(edit) > 1
    return "expected one for several instances, or their queue has no limit" if lacks else None


def groups(edit: Edit) -> str | None:
    """Allow one group of instances or more."""
    return None if edit.found.elements("instance_group") else "expected at least one group"


def kind(edit: Edit) -> str | None:
    """Allow the kind of instances that is written."""
    return None if edit.value == edit.written else f"expected {edit.written}"


def count(edit: Edit) -> str | None:
    """Allow 1 to 64 instances, and a single one only without a queue policy, unless it is written with one."""
    if not 1 <= (edit.value or 0) <= _MOST_INSTANCES:
        return f"expected 1 to {_MOST_INSTANCES}"
    if _POLICY in edit.found.values and _instances(edit) == 1 < (edit.written or 1):
        return f"expected 2 to {_MOST_INSTANCES}: with a queue policy, one instance waits between batches"
    return None


def gpus(edit: Edit) -> str | None:
    """Allow different GPUs, for instances that run on them."""
    named = edit.value or []
    if named and edit.found.values.get((*edit.path[:-1], "kind")) != "KIND_GPU":
        return "expected none on instances of the CPU"
    several = len(set(named)) == len(named) and all(0 <= gpu < _MOST_GPUS for gpu in named)
    return None if several else f"expected different numbers of 0 to {_MOST_GPUS - 1}"


def profile(edit: Edit) -> str | None:
    """Allow some of the profiles of the engine; none for a model that has no engine."""
    named, known = edit.value or [], edit.written or []
    if bool(named) == bool(known) and set(named) <= set(known):
        return None
    return f"expected profiles of the engine: {', '.join(known) or 'none'}"


def accelerator_of(instances: str) -> Check:
    """Allow an accelerator for this kind of instances."""

    def check(edit: Edit) -> str | None:
        kinds = [
            edit.found.values.get(("instance_group", group, "kind")) for group in edit.found.elements("instance_group")
        ]
        fits = edit.value is None or set(kinds) == {instances}
        return None if fits else f"expected none, it has no effect without {instances}"

    return check


def warmup(edit: Edit) -> str | None:
    """Allow requests that are named after their lengths, or none."""
    most = edit.plan.manifest.usable_length
    return None if edit.value is None or edit.written else f'expected names of the form "16 tokens", 1 to {most:,}'


def rows(edit: Edit) -> str | None:
    """Allow the rows that the model takes at a time."""
    return None if 1 <= (edit.value or 0) <= edit.plan.batch_size else f"expected 1 to {edit.plan.batch_size}"


def options(edit: Edit) -> str | None:
    """Allow options that are the same in all steps. What they may be is up to `plan.check_plan`."""
    try:
        held = options_from_text((edit.value or "").encode())
    except InputError as error:
        return str(error).rstrip(".")
    return None if held == edit.plan.options else f"expected {json.dumps(edit.plan.options)}, as in the other steps"


def buckets(edit: Edit) -> str | None:
    """Allow buckets that the model has."""
    try:
        check_buckets(lengths_from_text(edit.value or ""), edit.plan.manifest.usable_length)
    except InputError as error:
        return str(error).rstrip(".")
    return None


def _levels_of(edit: Edit) -> int:
    return int(edit.found.values.get(("dynamic_batching", "priority_levels"), 0))


def _instances(edit: Edit) -> int:
    """Return how many instances the model has in all."""
    found = edit.found.elements("instance_group")
    return sum(int(edit.found.values.get(("instance_group", group, "count"), 0)) for group in found)
