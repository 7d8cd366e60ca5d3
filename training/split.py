"""A corpus in three parts: for training, for choices during development, and for testing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

_Document = TypeVar("_Document")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Generic[_Document]):
    """Three parts of a corpus. No document is in two parts."""

    train: list[_Document]
    dev: list[_Document]
    test: list[_Document]


def split_groups(groups: Sequence[Sequence[_Document]]) -> Split[_Document]:
    """Return every tenth group as test documents, every tenth as dev documents, and the others for training."""
    return Split(
        train=[document for index, group in enumerate(groups) if index % 10 not in (0, 5) for document in group],
        dev=[document for group in groups[5::10] for document in group],
        test=[document for group in groups[::10] for document in group],
    )
