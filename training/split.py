"""A corpus in three parts that share no document."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

_Document = TypeVar("_Document")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Generic[_Document]):
    """Disjoint documents: no sentence of one text is on two sides."""

    train: list[_Document]
    dev: list[_Document]
    test: list[_Document]


def split_groups(groups: Sequence[Sequence[_Document]]) -> Split[_Document]:
    """Put one group in ten aside for testing and one for choices; what is in a group stays together."""
    return Split(
        train=[document for index, group in enumerate(groups) if index % 10 not in (0, 5) for document in group],
        dev=[document for group in groups[5::10] for document in group],
        test=[document for group in groups[::10] for document in group],
    )
