"""Rows of a table chosen by name; a name that is not there is refused with those that are."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from rpln_export.errors import PlanError
from rpln_runtime.tasks import Tensor

_Row = TypeVar("_Row")


def choose(table: Mapping[str, _Row], name: str, kind: str) -> _Row:
    """The row of `table` called `name`. Raises PlanError that says of what `kind` it is none."""
    if name not in table:
        raise PlanError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}.")
    return table[name]


def choose_all(tensors: Sequence[Tensor], names: Sequence[str], kind: str) -> tuple[Tensor, ...]:
    """The tensors called `names`, in that order, each once. Raises PlanError."""
    table = {tensor.name: tensor for tensor in tensors}
    return tuple(choose(table, name, kind) for name in dict.fromkeys(names))
