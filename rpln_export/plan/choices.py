"""Rows of a table, chosen by name. A name that is not there is refused with the names that are."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from rpln_export.errors import PlanError
from rpln_runtime.tasks import Tensor

AUTO: Final = "auto"
"""The choice that leaves the decision to what is found or measured."""
NONE: Final = "none"
"""The choice that asks for nothing: no form, or no engine."""

_Row = TypeVar("_Row")


def choose(table: Mapping[str, _Row], name: str, kind: str) -> _Row:
    """Return the row of `table` called `name`. Raises PlanError, which names the `kind` of row, if there is none."""
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1) or difflib.get_close_matches(name.lower(), table, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise PlanError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}.{meant}")
    return table[name]


def choose_all(tensors: Sequence[Tensor], names: Sequence[str], kind: str) -> tuple[Tensor, ...]:
    """Return the tensors called `names`, in that order, each once. Raises PlanError for a name that is no tensor's."""
    table = {tensor.name: tensor for tensor in tensors}
    return tuple(choose(table, name, kind) for name in dict.fromkeys(names))
