"""How faithful a quantized graph is to eager torch in fp32, on texts: what differs, and what is decided otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from rpln_export.checkpoint.planned_graphs import TracedGraph
from rpln_export.quantization.metric import EvaluationData
from rpln_export.validation.comparison import (
    TINY,
    Array,
    distance_between,
    graph_outputs,
    meaningful,
    reference_outputs,
)
from rpln_export.validation.decoding import RunGraph
from rpln_export.validation.graphs_under_test import GraphUnderTest
from rpln_graphs.forms import Form, write_form
from rpln_graphs.rewriting.base import Context
from rpln_graphs.sessions import run_from_model
from rpln_runtime.tasks import Tensor

MASKED_OUT: Final = -np.inf
"""What takes the place of values that no decision is made among."""
SEVERAL_LABELS: Final = "multi_label_classification"
"""The problem type whose texts may have several labels: each of them is decided by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """The differences of a graph's outputs from those of eager torch in fp32.

    Attributes:
        rms: the root of the mean square of the differences, relative to the range of the output.
        largest: the largest difference, relative to that range.
        decisions: how many argmaxes were compared.
        agreeing: how many of them are equal.
        drop: by how many points the metric on evaluation data is worse than in fp32; None without such data.
    """

    rms: float
    largest: float
    decisions: int
    agreeing: int
    drop: float | None = None

    @property
    def agreement(self) -> float | None:
        """The share of equal argmaxes; None for a task that decides nothing, such as feature-extraction."""
        return self.agreeing / self.decisions if self.decisions else None

    def __str__(self) -> str:
        decided = "" if self.agreement is None else f", {self.agreement:.2%} of {self.decisions} decisions equal"
        dropped = "" if self.drop is None else f", the metric {drop_in_words(self.drop)}"
        return f"off by {self.rms:.2%} of the range (rms; at most {self.largest:.2%}){decided}{dropped}"


def drop_in_words(drop: float) -> str:
    """Return by how many points a metric is worse than in fp32, or better where `drop` is below 0."""
    return f"{abs(drop):.2f} points {'better' if round(drop, 2) < 0 else 'worse'}"


class Trial:
    """Graphs whose quantized forms are tried on texts, one after another.

    Attributes:
        graphs: the graphs that compute an answer together, in fp32.
        under_test: these graphs beside eager torch.
        cases: the texts that forms are tried on.
        data: evaluation data with right answers; None where the user gives none.
    """

    def __init__(
        self,
        graphs: Sequence[TracedGraph],
        under_test: GraphUnderTest,
        cases: Sequence[Any],
        folder: Path,
        data: EvaluationData | None = None,
        *,
        allow_partial: bool = False,
    ) -> None:
        """Compute what eager torch says, and keep it in files in `folder`.

        With `allow_partial`, forms may round less than their formulas say.
        """
        self.graphs = [graph for graph in graphs if graph.planned in under_test.planned_graphs]
        self.under_test = under_test
        self.cases = cases
        self.data = data
        self._allow_partial = allow_partial
        last = under_test.planned_graphs[-1]
        self._several_labels = last.call.model.config.problem_type == SEVERAL_LABELS
        self._outputs = graph_outputs(last.compared, last.call.layers)
        self._expected = reference_outputs(under_test.eager, cases, folder, advance=lambda: None)

    def fidelity(self, form: Form, context: Context, *, with_metric: bool = True) -> Fidelity:
        """Return how faithful the graphs are in `form`, quantized as `context` says, run as ONNX Runtime runs them.

        Without `with_metric`, evaluation data are left aside.
        """
        runs = {
            graph.planned.name: run_from_model(
                write_form(graph.model, form, graph.planned.traits, context=context, allow_partial=self._allow_partial),
                optimized=True,
            )
            for graph in self.graphs
        }
        return self.fidelity_of_runs(runs, with_metric=with_metric)

    def fidelity_of_runs(self, runs: Mapping[str, RunGraph], *, with_metric: bool = True) -> Fidelity:
        """Return how faithful other graphs are, which `runs` runs by their names."""
        run = self.under_test.runner(runs)
        rows = {name: _Row() for name in self._outputs}
        for case, reference in zip(self.cases, self._expected, strict=True):
            found, expected = run(case), reference.values
            for name, tensor in self._outputs.items():
                where = meaningful(tensor, case, expected[name].shape)
                rows[name].note(found[name].astype(np.float32, copy=False), expected[name], where)
                decided = self._decisions(tensor, expected[name], where)
                if decided is not None:
                    equal = decided == self._decisions(tensor, found[name], where)
                    counted = where if self._several_labels else where.any(tensor.decides_along)
                    rows[name].decisions += int(counted.sum())
                    rows[name].agreeing += int(equal[counted].sum())
        return Fidelity(
            rms=float(np.max([row.rms for row in rows.values()])),
            largest=float(np.max([row.largest / row.reach for row in rows.values()])),
            decisions=sum(row.decisions for row in rows.values()),
            agreeing=sum(row.agreeing for row in rows.values()),
            drop=self.data.drop(runs) if self.data is not None and with_metric else None,
        )

    def _decisions(self, tensor: Tensor, values: Array, where: Array) -> Array | None:
        """Return what a task decides by an output; None where it decides nothing, as where there is a single label."""
        if tensor.decides_along is None:
            return None
        if self._several_labels:
            return np.asarray(values > 0)
        if values.shape[tensor.decides_along] == 1:
            return None
        return np.asarray(np.where(where, values, MASKED_OUT).argmax(tensor.decides_along))


@dataclass(slots=True)
class _Row:
    """The differences of one output, case by case."""

    reach: float = TINY
    squares: float = 0.0
    values: int = 0
    largest: float = 0.0
    decisions: int = 0
    agreeing: int = 0

    def note(self, found: Array, expected: Array, where: Array) -> None:
        """Take the differences of one case into account."""
        distance = distance_between(found, expected, where)
        values = int(where.sum())
        self.reach = max(self.reach, float(np.abs(expected[where]).max(initial=0.0)))
        self.squares, self.values = self.squares + distance.rms**2 * values, self.values + values
        self.largest = float(np.maximum(self.largest, distance.largest))  # a NaN stays

    @property
    def rms(self) -> float:
        """The root of the mean square of all differences, relative to the output's reach."""
        return float(np.sqrt(self.squares / max(self.values, 1))) / self.reach
