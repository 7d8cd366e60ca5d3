"""VARIANTS: one row per way of running a network; the decoder's cached rows are added beside `full`."""

from dataclasses import dataclass
from typing import Final

from rpln_runtime.tasks import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A graph of a task: what it takes and gives beside the task's own tensors, and whether it holds a cache."""

    name: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    cache: bool = False


VARIANTS: Final = {row.name: row for row in (Variant(name="full"),)}
