"""How an export's graphs are quantized: the error on texts held back decides, and then the gate.

First the preparations of weights and biases are tried, then the ways to choose ranges; or the ways to round weights.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rpln_export.checkpoint.planned_graphs import TracedGraph
from rpln_export.errors import PlanError, QuantizationError
from rpln_export.plan.calibration import FEWEST
from rpln_export.plan.choices import AUTO
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.quantization.fidelity import Fidelity, Trial
from rpln_export.quantization.gate import Gate, Passage, pass_gate
from rpln_export.quantization.metric import EvaluationData
from rpln_export.quantization.rounded_weights import rounded_for_inputs
from rpln_export.validation.calibration import windows_from_texts
from rpln_export.validation.graphs_under_test import GraphUnderTest, SingleGraphUnderTest
from rpln_graphs.forms import EMBEDDINGS, Form
from rpln_graphs.passes.quantize_attention import projected_for_scores
from rpln_graphs.quantization.blocks import Blocks
from rpln_graphs.quantization.observe import observe
from rpln_graphs.quantization.products import layer_products
from rpln_graphs.quantization.range_methods import RANGE_METHODS
from rpln_graphs.quantization.ways import PLAIN, PREPARATIONS, Calibration, Preparation, calibration_from_observed
from rpln_graphs.rewriting.base import Context, counts_from_model, refusals_from_model
from rpln_graphs.temporary import temporary_folder

ADVICE: Final = (
    "Give more texts like those that the model will read with --calibration, ask for less with --min-agreement or "
    "--max-drop, leave out --quantize-embeddings if you asked for it, or export in another precision."
)
HELD_BACK: Final = 4
"""One of this many texts is held back. Activations are measured on the others; these decide which way is the best, and
whether the gate holds."""
PROMPTS: Final = 8
"""The prompts that a text held back makes for a decoder, its beginnings: of each, only the last word is decided."""
ERROR_AWARE: Final = "error-aware"
ROUNDINGS: Final = ("nearest", ERROR_AWARE)
"""The ways to round weights of 4 bits: each for itself, or so that later ones make up for errors of earlier ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedForm:
    """How a form was quantized.

    Attributes:
        form: the name of the form. Packed forms are quantized as the forms that they pack.
        way: the row of RANGE_METHODS that its ranges come from, and how weights were prepared, as in "min-max,
            equalized and corrected"; or the row of ROUNDINGS that its weights are rounded by; empty if there was
            nothing to choose.
        tried: how faithful the graph is in each way that was tried.
        passage: how it came through the gate.
    """

    form: str
    way: str
    tried: Mapping[str, Fidelity]
    passage: Passage

    @property
    def refusal(self) -> str | None:
        """Why the form is refused; None if the gate holds."""
        if self.passage.holds:
            return None
        because = f" ({self.passage.because})" if self.passage.because else ""
        return f"refused by the gate: {self.passage.curve[-1].fidelity}{because}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How the graphs of an export were quantized.

    Attributes:
        forms: how each form was, by its name.
        measured: how many texts ranges and inputs were measured on; 0 where nothing had to be measured.
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
    traced: Sequence[TracedGraph],
    under_test: GraphUnderTest,
    tokenizer: Any,
    plan: ExportPlan,
    *,
    data: EvaluationData | None = None,
    advance: Callable[[int, int], None],
) -> Quantization:
    """Return how the forms of the graphs, which compute an answer together, are quantized.

    `traced` are the graphs before anything was rewritten. `data` is the user's evaluation data, if there is any.
    `advance` is told how many runs are done, and of how many at least. Raises QuantizationError if no form passes the
    gate.
    """
    texts = list(windows_from_texts(tokenizer, plan))
    if len(texts) < FEWEST:
        raise PlanError(
            f"only {len(texts)} of the calibration texts have tokens, and {plan.recipe.name} needs at least {FEWEST}. "
            "Give more of them with --calibration."
        )
    forms = _tried(plan)
    calibrated = any(form.calibrated or form.error_aware for form in forms)
    tried = texts[::HELD_BACK] if calibrated else texts
    others = [text for place, text in enumerate(texts) if place % HELD_BACK] if calibrated else []
    # Of a question, one choice is enough to see how far values reach.
    choices = 1 if plan.task.has_choices else None
    measured = [under_test.case_from_ids(ids) for text in others for ids in text[:choices]]
    total = len(measured) + sum(_number_of_ways(form) for form in forms)
    numbers = itertools.count(1)

    def tick() -> None:
        done = next(numbers)
        advance(done, max(done, total))

    calibration = _calibration(forms, graphs, under_test, measured, advance=tick)
    rounded = _rounded(forms, graphs, traced, under_test, measured, advance=tick)
    prompts = PROMPTS if calibrated and plan.task.generates else 1
    if isinstance(under_test, SingleGraphUnderTest) and plan.task.has_choices:
        cases: list[Any] = list(map(under_test.case_from_choices, tried))
    else:
        parts = (ids for text in tried for whole in text for ids in _beginnings(whole, prompts))
        cases = list(map(under_test.case_from_ids, parts))
    gate = Gate(agreement=plan.gate.min_agreement, drop=plan.gate.max_drop)
    with temporary_folder() as folder:
        trial = Trial(graphs, under_test, cases, folder, data, allow_partial=plan.allow_partial)
        rows = [_quantized(form, trial, calibration, rounded, gate, advance=tick) for form in forms]
    quantization = Quantization(
        forms={row.form: row for row in rows},
        measured=len(others),
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
    names = [kind.__name__ for kind in form.passes if kind.__name__ in counts and kind not in EMBEDDINGS]
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


def _beginnings(ids: NDArray[np.int64], parts: int) -> list[NDArray[np.int64]]:
    """Return the first of so many parts of the ids, the first two together, and so on. Short ids have fewer parts."""
    lengths = {math.ceil(len(ids) * part / parts) for part in range(1, parts + 1)}
    return [ids[:length] for length in sorted(lengths)]


def _calibration(
    forms: Sequence[Form],
    graphs: Sequence[TracedGraph],
    under_test: GraphUnderTest,
    cases: Sequence[Any],
    *,
    advance: Callable[[], None],
) -> Calibration | None:
    """Return what is seen of the activations that may be rounded; None if no form rounds any.

    Only tasks with a single graph round activations.
    """
    if not any(form.calibrated for form in forms):
        return None
    (graph,) = graphs
    names = [product.activation.name or "" for product in layer_products(graph.model)]
    names += [node.outputs[0].name or "" for node in projected_for_scores(graph.model)]
    feeds = (under_test.full_feeds(case, graph.planned, {}) for case in cases)
    observed = observe(graph.model, names, feeds, advance=advance)
    return calibration_from_observed(graph.model, observed, equalizes=any(form.prepares for form in forms))


def _rounded(
    forms: Sequence[Form],
    graphs: Sequence[TracedGraph],
    traced: Sequence[TracedGraph],
    under_test: GraphUnderTest,
    cases: Sequence[Any],
    *,
    advance: Callable[[], None],
) -> Mapping[bytes, Blocks]:
    """Return the weights that a form can take rounded for their inputs; none where no form does."""
    kinds = [form.error_aware for form in forms if form.error_aware]
    return rounded_for_inputs(kinds[0], graphs, traced, under_test, cases, advance=advance) if kinds else {}


def _quantized(
    form: Form,
    trial: Trial,
    calibration: Calibration | None,
    rounded: Mapping[bytes, Blocks],
    gate: Gate,
    *,
    advance: Callable[[], None],
) -> QuantizedForm:
    """Quantize a form in the way that serves it best, and let it through the gate if it may pass."""
    contexts: dict[str, Context] = {}
    tried: dict[str, Fidelity] = {}
    for name, context in _ways(form, calibration, rounded, tried):
        contexts[name], tried[name] = context, trial.fidelity(form, context)
        advance()
    best = _best(tried)
    passage = pass_gate(gate, trial, form, contexts[best], tried[best], advance=advance)
    return QuantizedForm(form=form.name, way=best, tried=tried, passage=passage)


def _ways(
    form: Form, calibration: Calibration | None, rounded: Mapping[bytes, Blocks], tried: Mapping[str, Fidelity]
) -> Iterator[tuple[str, Context]]:
    """Yield the name of each way in which a form is tried, and what it is quantized by.

    `tried` holds what became of those before: each row of RANGE_METHODS is tried with the best preparation.
    """
    if calibration is None or not form.calibrated:
        yield from ((name, Context(weights=rounded if name == ERROR_AWARE else {})) for name in _roundings(form))
        return
    prepared = {way.name: way for way in (replace(PLAIN, preparation=row) for row in _preparations(form))}
    for name, way in prepared.items():
        yield name, calibration.context(way, form.rounds_to)
    best = prepared[_best(tried)]
    for ranges in RANGE_METHODS.values():
        if ranges != best.ranges:
            way = replace(best, ranges=ranges)
            yield way.name, calibration.context(way, form.rounds_to)


def _number_of_ways(form: Form) -> int:
    """Return the number of ways that a form is tried in."""
    return len(_preparations(form)) + len(RANGE_METHODS) - 1 if form.calibrated else len(_roundings(form))


def _preparations(form: Form) -> Sequence[Preparation]:
    """Return the preparations that the form has the passes for."""
    return PREPARATIONS if form.prepares else PREPARATIONS[:1]


def _roundings(form: Form) -> Sequence[str]:
    """Return the rows of ROUNDINGS that a form is tried with; an empty name if there is no choice."""
    return ROUNDINGS if form.error_aware else [""]


def _best(tried: Mapping[str, Fidelity]) -> str:
    """Return the way with the smallest error."""
    return min(tried, key=lambda name: tried[name].rms if math.isfinite(tried[name].rms) else math.inf)


def _refused(quantization: Quantization) -> str:
    """Return the message for graphs of which no form passes the gate."""
    return "\n".join(
        [
            f"not as accurate as asked for, so nothing was published. The gate asks for {quantization.gate}.",
            *(f"  {name}: {reason}" for name, reason in quantization.refusals.items()),
            ADVICE,
        ]
    )
