"""How faithful a quantized graph is to eager torch in fp32, on texts: what differs, and what is decided otherwise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from rpln_export.checkpoint.planned_graphs import TracedGraph
from rpln_export.quantization.metric import EvaluationData
from rpln_export.validation.comparison import TINY, Array, distance_between, graph_outputs, meaningful
from rpln_export.validation.graphs_under_test import GraphUnderTest
from rpln_graphs.forms import Form, write_form
from rpln_graphs.rewriting.base import Context
from rpln_graphs.sessions import optimized_session_from_model
from rpln_graphs.temporary import temporary_folder
from rpln_runtime.tasks import Tensor

MASKED_OUT: Final = -np.inf
"""What takes the place of values that no decision is made among."""


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
        dropped = "" if self.drop is None else f", the metric {self.drop:.2f} points worse"
        return f"off by {self.rms:.2%} of the range (rms; at most {self.largest:.2%}){decided}{dropped}"


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
        data: EvaluationData | None = None,
    ) -> None:
        self.graphs = [graph for graph in graphs if graph.planned in under_test.planned_graphs]
        self.under_test = under_test
        self.cases = cases
        self.data = data
        last = under_test.planned_graphs[-1]
        self._outputs = graph_outputs(last.compared, last.call.layers)
        self._expected = [under_test.eager(case) for case in cases]

    def fidelity(self, form: Form, context: Context, *, with_metric: bool = True) -> Fidelity:
        """Return how faithful the graphs are in `form`, quantized as `context` says, run as ONNX Runtime runs them.

        Without `with_metric`, evaluation data are left aside.
        """
        runs = {
            graph.planned.name: _run_optimized(write_form(graph.model, form, graph.planned.traits, context=context))
            for graph in self.graphs
        }
        run = self.under_test.runner(runs)
        found = [run(case) for case in self.cases]
        rows = [self._fidelity(name, tensor, found) for name, tensor in self._outputs.items()]
        return Fidelity(
            rms=max(row.rms for row in rows),
            largest=max(row.largest for row in rows),
            decisions=sum(row.decisions for row in rows),
            agreeing=sum(row.agreeing for row in rows),
            drop=self.data.drop(runs) if self.data is not None and with_metric else None,
        )

    def _fidelity(self, name: str, tensor: Tensor, found: Sequence[Mapping[str, Array]]) -> Fidelity:
        """Return the differences of one output over all texts."""
        reach, squares, values, largest, decisions, agreeing = TINY, 0.0, 0, 0.0, 0, 0
        for case, expected, outputs in zip(self.cases, self._expected, found, strict=True):
            where = meaningful(tensor, case, expected[name].shape)
            distance = distance_between(outputs[name].astype(np.float32, copy=False), expected[name], where)
            reach = max(reach, float(np.abs(expected[name][where]).max(initial=0.0)))
            squares, values = squares + distance.rms**2 * int(where.sum()), values + int(where.sum())
            largest = max(largest, distance.largest)
            if tensor.decides_along is not None:
                decided = where.any(tensor.decides_along)
                equal = _decided(expected[name], where, tensor) == _decided(outputs[name], where, tensor)
                decisions, agreeing = decisions + int(decided.sum()), agreeing + int(equal[decided].sum())
        return Fidelity(
            rms=float(np.sqrt(squares / max(values, 1))) / reach,
            largest=largest / reach,
            decisions=decisions,
            agreeing=agreeing,
        )


def _decided(values: Array, where: Array, tensor: Tensor) -> Array:
    """Return the index of the largest value along the axis that the task decides along."""
    return np.asarray(np.where(where, values, MASKED_OUT).argmax(tensor.decides_along))


def _run_optimized(model: ir.Model) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return a function that runs a graph in ONNX Runtime with all of its optimizations."""
    with temporary_folder() as folder:
        session = optimized_session_from_model(model, folder)
    names = [value.name or "" for value in model.graph.outputs]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))
