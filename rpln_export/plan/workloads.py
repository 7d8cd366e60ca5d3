"""WORKLOADS: one row per workload that forms are measured on. A batch is the lengths of its texts in tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rpln_export.errors import PlanError
from rpln_runtime.batching import batches
from rpln_runtime.documents import DocumentError, read_document
from rpln_runtime.limits import OTHER

FILE_BATCH_SIZE: Final = 32
"""The most texts in a batch of a user's own file, as in the runtime's pipelines."""
FILE_BATCH_TOKENS: Final = 4096
"""The most tokens in such a batch, padding included."""
MOST_FILE_BATCHES: Final = 8
"""The most batches of a user's own file that are measured. They are spread over the whole file."""
EXPECTED: Final = (
    "A file of lengths is JSON: a list of the lengths of texts in tokens, such as [12, 40, 33], or a list of batches, "
    "such as [[12, 40], [33, 7]]."
)
"""The sentence that tells users what such a file holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Batches that are run one after another, each padded to its longest text."""

    name: str
    batches: tuple[tuple[int, ...], ...]

    @property
    def has_padding(self) -> bool:
        """Whether any batch has texts of different lengths."""
        return any(len(set(batch)) > 1 for batch in self.batches)


WORKLOADS: Final = {
    row.name: row
    for row in (
        # One text at a time, of three lengths.
        Workload(name="latency", batches=((32,), (128,), (384,))),
        # Full batches of equal lengths.
        Workload(name="throughput", batches=((128,) * 8,)),
        # Texts of unequal lengths: most are short, and the longest sets the width of the batch.
        Workload(name="ragged", batches=((200, 96, 51, 38, 30, 22, 14, 9),)),
    )
}
DEFAULT_WORKLOAD: Final = "latency"
"""The workload where the user names none."""


def workload_from_file(path: Path) -> Workload:
    """Return the workload in a JSON file: a list of lengths, or a list of lists, which are the batches.

    Raises PlanError for anything else.
    """
    try:
        document = read_document(path, OTHER)
    except DocumentError as error:
        raise PlanError(f"{path} cannot be read ({error}). {EXPECTED}") from error
    rows = document if isinstance(document, list) else []
    grouped = rows if all(isinstance(row, list) for row in rows) else _grouped(rows)
    if not rows or not all(row and all(type(length) is int and length > 0 for length in row) for row in grouped):
        raise PlanError(f"{path} is not a workload. {EXPECTED}")
    step = max(1, len(grouped) // MOST_FILE_BATCHES)
    return Workload(name=path.name, batches=tuple(tuple(row) for row in grouped[::step][:MOST_FILE_BATCHES]))


def _grouped(lengths: Sequence[Any]) -> list[list[Any]]:
    """Return the batches that the runtime would make of texts of these lengths; anything else comes back as it is."""
    if not all(type(length) is int for length in lengths):
        return [list(lengths)]
    grouped = batches(lengths, batch_size=FILE_BATCH_SIZE, batch_tokens=FILE_BATCH_TOKENS)
    return [[lengths[place] for place in batch] for batch in grouped]
