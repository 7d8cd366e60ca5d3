"""The decision how an export's graphs are quantized: all by the error on texts held back, then the gate.

First the preparations of weights and biases are tried, then the ways to choose ranges.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import onnx_ir as ir

from rpln_export.checkpoint.planned_graphs import TracedGraph
from rpln_export.errors import PlanError, QuantizationError
from rpln_export.plan.calibration import FEWEST
from rpln_export.plan.choices import AUTO
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.quantization.fidelity import Fidelity, Trial
from rpln_export.quantization.gate import Gate, Passage, pass_gate
from rpln_export.quantization.metric import EvaluationData
from rpln_export.validation.calibration import windows_from_texts
from rpln_export.validation.graphs_under_test import GraphUnderTest
from rpln_graphs.forms import Form
from rpln_graphs.passes.quantize_attention import projected_for_scores
from rpln_graphs.quantization.observe import observe
from rpln_graphs.quantization.products import layer_products
from rpln_graphs.quantization.range_methods import RANGE_METHODS
from rpln_graphs.quantization.ways import PLAIN, PREPARATIONS, Calibration, Preparation, Way, calibration_from_observed
from rpln_graphs.rewriting.base import Context, counts_from_model, refusals_from_model
from rpln_graphs.temporary import temporary_folder

ADVICE: Final = (
    "Give more texts like those that the model will read with --calibration, ask for less with --min-agreement or "
    "--max-drop, or export in another precision."
)
HELD_BACK: Final = 4
"""One of this many texts is held back. Ranges are measured on the others; these decide which ranges are the best, and
whether the gate holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedForm:
    """How a form was quantized.

    Attributes:
        form: the name of the form. Packed forms are quantized as the forms that they pack.
        ranges: the row of RANGE_METHODS that its ranges come from, and how weights were prepared, as in "min-max,
            equalized and corrected"; empty if ranges come from the batch.
        tried: how faithful the graph is in each way that was tried.
        passage: how it came through the gate.
    """

    form: str
    ranges: str
    tried: Mapping[str, Fidelity]
    passage: Passage

    @property
    def refusal(self) -> str | None:
        """Why the form is refused; None if the gate holds."""
        if self.passage.holds:
            return None
        return f"refused by the gate: {self.passage.curve[-1].fidelity}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How the graphs of an export were quantized.

    Attributes:
        forms: how each form was, by its name.
        measured: how many texts the ranges were measured on; 0 where nothing had to be measured.
        held_back: how many texts the forms were tried on.
        gate: what was asked of them.
        metric: the metric on evaluation data and its value in fp32, in words; empty if there are no such data.
    """

    forms: Mapping[str, QuantizedForm]
    measured: int
    held_back: int
    gate: str
    metric: str = ""

    @property
    def contexts(self) -> dict[str, Context]:
        """What is rounded and how, by the names of the forms that passed the gate."""
        return {name: row.passage.context for name, row in self.forms.items() if row.passage.holds}

    @property
    def refusals(self) -> dict[str, str]:
        """Why the other forms are refused, by their names."""
        return {name: row.refusal for name, row in self.forms.items() if row.refusal}


def quantize(
    graphs: Sequence[TracedGraph],
    under_test: GraphUnderTest,
    tokenizer: Any,
    plan: ExportPlan,
    *,
    data: EvaluationData | None = None,
    advance: Callable[[int, int], None],
) -> Quantization:
    """Return how the forms of the graphs, which compute an answer together, are quantized.

    `data` is the user's evaluation data, if there is any. `advance` is told how many runs are done, and of how many at
    least. Raises QuantizationError if no form passes the gate.
    """
    texts = [[under_test.case_from_ids(ids) for ids in windows] for windows in windows_from_texts(tokenizer, plan)]
    if len(texts) < FEWEST:
        raise PlanError(
            f"only {len(texts)} of the calibration texts have tokens, and {plan.recipe.name} needs at least {FEWEST}. "
            "Give more of them with --calibration."
        )
    forms = _tried(plan)
    calibrated = any(form.calibrated for form in forms)
    measured = [case for place, text in enumerate(texts) if place % HELD_BACK for case in text] if calibrated else []
    tried = texts[::HELD_BACK] if calibrated else texts
    total = len(measured) + sum(_ways(form) for form in forms)
    numbers = itertools.count(1)

    def tick() -> None:
        done = next(numbers)
        advance(done, max(done, total))

    calibration = (
        _calibration(graphs, under_test, measured, equalizes=any(form.prepares for form in forms), advance=tick)
        if calibrated
        else None
    )
    cases = [case for text in tried for case in text]
    gate = Gate(agreement=plan.gate.min_agreement, drop=plan.gate.max_drop)
    with temporary_folder() as folder:
        trial = Trial(graphs, under_test, cases, folder, data, allow_partial=plan.allow_partial)
        rows = [_quantized(form, trial, calibration, gate, advance=tick) for form in forms]
    quantization = Quantization(
        forms={row.form: row for row in rows},
        measured=len(texts) - len(tried) if calibrated else 0,
        held_back=len(tried),
        gate=str(gate),
        metric="" if data is None else f"{data.metric} on {data.path}: {data.before:.4f} in fp32",
    )
    if not quantization.contexts:
        raise QuantizationError(_refused(quantization))
    return quantization


def check_quantized(model: ir.Model, form: Form) -> None:
    """Refuse a graph in which no product could be quantized. Raises QuantizationError with the reasons."""
    counts, refusals = counts_from_model(model), refusals_from_model(model)
    names = [kind.__name__ for kind in form.passes if kind.__name__ in counts]
    if sum(counts[name] for name in names) == 0:
        reasons = dict.fromkeys(refusal.reason for name in names for refusal in refusals.get(name, []))
        raise QuantizationError(
            f"no product of the network could be quantized: {'; '.join(reasons) or 'it has no layers'}. Export in "
            "another precision."
        )


def _tried(plan: ExportPlan) -> list[Form]:
    """Return the forms that are quantized: all that round in a way of their own, or the one that the user named."""
    wanted = plan.recipe.forms.values() if plan.optimize == AUTO else [plan.form]
    names = {form.accurate_as or form.name for form in wanted}
    return [form for name, form in plan.recipe.forms.items() if name in names]


def _calibration(
    graphs: Sequence[TracedGraph],
    under_test: GraphUnderTest,
    cases: Sequence[Any],
    *,
    equalizes: bool,
    advance: Callable[[], None],
) -> Calibration:
    """Return what is seen of the activations that may be rounded. Only tasks with a single graph round activations."""
    (graph,) = graphs
    names = [product.activation.name or "" for product in layer_products(graph.model)]
    names += [node.outputs[0].name or "" for node in projected_for_scores(graph.model)]
    feeds = (under_test.full_feeds(case, graph.planned, {}) for case in cases)
    observed = observe(graph.model, names, feeds, advance=advance)
    return calibration_from_observed(graph.model, observed, equalizes=equalizes)


def _quantized(
    form: Form, trial: Trial, calibration: Calibration | None, gate: Gate, *, advance: Callable[[], None]
) -> QuantizedForm:
    """Quantize a form in the way that serves it best, and let it through the gate if it may pass."""
    if calibration is None or not form.calibrated:
        context, name = Context(), ""
        tried = {name: trial.fidelity(form, context)}
        advance()
    else:
        found = _tried_ways(form, trial, calibration, advance=advance)
        way = _best(found)
        context, name = calibration.context(way, form.rounds_to), way.name
        tried = {one.name: fidelity for one, fidelity in found.items()}
    passage = pass_gate(gate, trial, form, context, tried[name], advance=advance)
    return QuantizedForm(form=form.name, ranges=name, tried=tried, passage=passage)


def _tried_ways(
    form: Form, trial: Trial, calibration: Calibration, *, advance: Callable[[], None]
) -> dict[Way, Fidelity]:
    """Return how faithful a static form is with each preparation, then with the best of these and each range."""
    tried: dict[Way, Fidelity] = {}

    def try_out(way: Way) -> None:
        tried[way] = trial.fidelity(form, calibration.context(way, form.rounds_to))
        advance()

    for preparation in _preparations(form):
        try_out(replace(PLAIN, preparation=preparation))
    prepared = _best(tried)
    for ranges in RANGE_METHODS.values():
        if ranges != prepared.ranges:
            try_out(replace(prepared, ranges=ranges))
    return tried


def _ways(form: Form) -> int:
    """Return the number of ways that a form is tried in."""
    return len(_preparations(form)) + len(RANGE_METHODS) - 1 if form.calibrated else 1


def _preparations(form: Form) -> Sequence[Preparation]:
    """Return the preparations that the form has the passes for."""
    return PREPARATIONS if form.prepares else PREPARATIONS[:1]


def _best(tried: Mapping[Way, Fidelity]) -> Way:
    """Return the way with the smallest error."""
    return min(tried, key=lambda way: tried[way].rms if math.isfinite(tried[way].rms) else math.inf)


def _refused(quantization: Quantization) -> str:
    """Return the message for graphs of which no form passes the gate."""
    return "\n".join(
        [
            f"not as accurate as asked for, so nothing was published. The gate asks for {quantization.gate}.",
            *(f"  {name}: {reason}" for name, reason in quantization.refusals.items()),
            ADVICE,
        ]
    )
