"""FORMS: one row per way to write the same network down: which passes make it, and whom it is for.

A form's `folds` go before the passes of a recipe, which need the graph as it was traced; its `fusions` go after them,
so that what is fused is what will run.
"""

from dataclasses import dataclass
from typing import Final

from rpln_graphs.passes.base import CountingPass


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A row. `standard`: every operator is ONNX's own, so that any runtime takes it. `opset`: the least it needs."""

    name: str
    folds: tuple[type[CountingPass], ...] = ()
    fusions: tuple[type[CountingPass], ...] = ()
    standard: bool = True
    opset: int = 0


_ROWS: tuple[Form, ...] = ()

FORMS: Final = {row.name: row for row in _ROWS}
