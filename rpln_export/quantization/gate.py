"""The gate: how accurate a quantized graph must be, and which blocks go back to fp32 until it is.

All products are quantized first. If that is not accurate enough, every block is quantized alone to see how much it
costs, and the most costly ones stay in fp32, until the gate holds.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rpln_export.quantization.fidelity import Fidelity, Trial
from rpln_graphs.forms import EMBEDDINGS, Form
from rpln_graphs.quantization.products import layer_products
from rpln_graphs.rewriting.base import Context

MOST_KEPT: Final = 0.75
"""The share of a network's blocks up to which they go back to fp32. Beyond that, int8 gains too little."""


EMBEDDINGS_ALONE: Final = "embeddings in 8 bits alone are too far off, with all blocks as they were"
"""Why a form does not pass whose embeddings are to be quantized: no block can make up for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What is asked of a quantized graph.

    Attributes:
        agreement: the least share of decisions equal to those in fp32.
        drop: the most points that the metric may be worse by; None where it is not asked about.
    """

    agreement: float
    drop: float | None = None

    def holds(self, fidelity: Fidelity) -> bool:
        """Return whether a graph passes. Where a task decides nothing, no decision can differ."""
        if not math.isfinite(fidelity.rms) or fidelity.drop == math.inf:
            return False
        agrees = fidelity.agreement is None or fidelity.agreement >= self.agreement
        return agrees and (self.drop is None or fidelity.drop is None or fidelity.drop <= self.drop)

    def __str__(self) -> str:
        asked = f"at least {self.agreement:.1%} of the decisions equal to those in fp32"
        return asked if self.drop is None else f"{asked}, and the metric at most {self.drop:g} points worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of the curve: the blocks that stayed in fp32, and what that made of the graph."""

    kept: tuple[str, ...]
    fidelity: Fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """How a form came through the gate, or did not.

    Attributes:
        context: how it is quantized, at the last point.
        curve: the points that were tried.
        costs: how far the graph is off with one block alone quantized, by the block; empty if nothing had to stay.
        holds: whether the gate holds at the last point.
        because: why it cannot hold, where that is known.
    """

    context: Context
    curve: Sequence[Point]
    costs: Mapping[str, float]
    holds: bool
    because: str = ""


def pass_gate(
    gate: Gate, trial: Trial, form: Form, context: Context, first: Fidelity, *, advance: Callable[[], None]
) -> Passage:
    """Return how `form` comes through the gate; `first` is its fidelity with all products quantized.

    `advance` is called after every graph that is tried.
    """
    curve = [Point(kept=(), fidelity=first)]
    if gate.holds(first):
        return Passage(context=context, curve=curve, costs={}, holds=True)
    blocks = list(dict.fromkeys(product.block for graph in trial.graphs for product in layer_products(graph.model)))
    costs: dict[str, float] = {}
    if set(EMBEDDINGS) & set(form.passes):
        alone = replace(context, kept=frozenset(blocks))
        fidelity = trial.fidelity(form, alone)
        advance()
        if not gate.holds(fidelity):
            return Passage(context=context, curve=curve, costs={}, holds=False, because=EMBEDDINGS_ALONE)
    for block in blocks:
        alone = replace(context, kept=frozenset(blocks) - {block})
        costs[block] = trial.fidelity(form, alone, with_metric=False).rms
        advance()
    worst = sorted(blocks, key=lambda block: -costs[block])
    for count in _counts(len(blocks)):
        context = replace(context, kept=frozenset(worst[:count]))
        curve.append(Point(kept=tuple(worst[:count]), fidelity=trial.fidelity(form, context)))
        advance()
        if gate.holds(curve[-1].fidelity):
            break
    return Passage(context=context, curve=curve, costs=costs, holds=gate.holds(curve[-1].fidelity))


def _counts(blocks: int) -> Iterator[int]:
    """Yield how many blocks stay in fp32: one more each time, and later more, up to MOST_KEPT of all."""
    count = 1
    while count <= blocks * MOST_KEPT:
        yield count
        count += max(1, count // 3)
