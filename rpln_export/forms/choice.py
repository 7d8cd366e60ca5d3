"""The choice of each graph's form: the fastest that was measured, or the target's default if nothing can be measured.

Every bundle holds the recipe's standard form as model.onnx: the graph in standard operators, or for int8, for example,
the form `static`. Another form gets a file beside it only if it is ahead of the standard form by more than the
measurement is uncertain (`rpln_export.forms.speeds`).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.forms.candidates import (
    DEFAULT_SETTINGS,
    SECONDS,
    SECONDS_QUANTIZED,
    Settings,
    entries_from_plan,
    measure_candidates,
    measure_settings,
    other_settings,
)
from rpln_export.forms.graph_forms import GraphForms
from rpln_export.forms.speeds import Speed
from rpln_export.plan.choices import AUTO, NONE
from rpln_export.plan.export_plan import ExportPlan
from rpln_graphs.forms import STANDARD, Form, reasons_without_effect
from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.errors import MissingExtraError, ProviderError
from rpln_runtime.manifest import Candidate, Optimization, Rewritten
from rpln_runtime.session import DEFAULT_PROVIDER

CHOSEN: Final = "chosen"
"""The outcome of the candidates that are kept, on the provider that is the fastest."""
BEST_THERE: Final = "the fastest on its provider"
"""The outcome of the fastest candidates on other providers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What was measured of the candidates for all graphs.

    Attributes:
        candidates: the candidates of all graphs, as the manifest lists them.
        settings: the settings of ONNX Runtime's threads that suit its fastest form of the first graph.
        threads_note: what was measured of these settings; empty where nothing was.
        why_not: why nothing was measured; empty where something was.
        refused: why the target's default form is not taken, where nothing was measured; empty where it may be taken.
        standard: the name of the form of model.onnx.
    """

    candidates: tuple[Candidate, ...] = ()
    settings: Settings = DEFAULT_SETTINGS
    threads_note: str = ""
    why_not: str = ""
    refused: str = ""
    standard: str = STANDARD.name

    @property
    def provider(self) -> str:
        """The provider that runs the first graph fastest. All graphs of a bundle run on one provider."""
        fastest = [row for row in self.fastest_candidates if row.variant == self.candidates[0].variant]
        best = _fastest(fastest)
        return DEFAULT_PROVIDER if best is None else best.provider

    @property
    def fastest_candidates(self) -> list[Candidate]:
        """The fastest candidate for each graph on each provider."""
        places = dict.fromkeys((row.variant, row.provider) for row in self.candidates)
        return [best for place in places if (best := self.fastest(*place)) is not None]

    def fastest(self, variant: str, provider: str) -> Candidate | None:
        """Return the fastest candidate for a graph on a provider; None where none runs.

        It is the standard form where nothing is clearly faster.
        """
        rows = (row for row in self.candidates if (row.variant, row.provider) == (variant, provider))
        return _fastest(sorted(rows, key=lambda row: row.form != self.standard))

    @property
    def kept(self) -> list[Candidate]:
        """The candidate that each graph is kept as: the fastest on the provider that runs the bundle."""
        return [row for row in self.fastest_candidates if row.provider == self.provider]

    def rivals(self, kept: Candidate) -> list[Candidate]:
        """Return the other candidates that were measured in place of the `kept` one of a graph.

        Those on other providers are rivals for the first graph, which decides on the provider.
        """
        decides = kept.variant == self.candidates[0].variant
        return [
            row
            for row in self.candidates
            if row != kept
            and row.variant == kept.variant
            and (decides or row.provider == kept.provider)
            and row.speedup is not None
        ]

    def without_fastest(self, provider: str, reason: str) -> "Measurements":
        """Return the measurements without the fastest candidates on a provider, which were refused for `reason`."""
        if not self.candidates:
            return dataclasses.replace(self, refused=reason)
        fastest = [row for row in self.fastest_candidates if row.provider == provider]
        # Where one of several graphs is in another form, graphs in the standard form are not the reason.
        fastest = [row for row in fastest if row.form != self.standard] or fastest
        return dataclasses.replace(
            self,
            candidates=tuple(
                dataclasses.replace(row, speedup=None, outcome=reason) if row in fastest else row
                for row in self.candidates
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The forms that a bundle holds its graphs in.

    Attributes:
        form: the name of the form of model.onnx and the like.
        models: the graphs in other forms, by the files that they are written to.
        rewritten: the files in other forms and the providers that run them, by the name of the variant.
        record: how the forms were chosen, for the manifest.
    """

    form: str
    models: Mapping[str, ir.Model]
    rewritten: Mapping[str, tuple[Rewritten, ...]]
    record: Optimization


def measure_forms(plan: ExportPlan, graphs: Sequence[GraphForms], advance: Callable[[int, int], None]) -> Measurements:
    """Measure the forms that the plan leaves open on this machine, and return what was measured, or why nothing was.

    Nothing is measured where the plan names a form, or where its target does not run here. `advance` is told how many
    candidates and settings of threads are done, and of how many. Raises PassError for a form that fuses less than its
    formula says.
    """
    if plan.optimize != AUTO:
        return Measurements(
            why_not=plan.unfolded_because or f"the form that was asked for (--optimize {plan.optimize})"
        )
    if not plan.target.providers:
        return Measurements(why_not=f"{_default_form(plan)}; nothing is measured for this target")
    total = sum(entry.reason is None for graph in graphs for entry in entries_from_plan(graph.planned, plan))
    total += len(other_settings()) if DEFAULT_PROVIDER in plan.target.providers else 0
    numbers = itertools.count(1)

    def tick() -> None:
        advance(next(numbers), total)

    seconds = SECONDS_QUANTIZED if plan.recipe.quantizes else SECONDS
    candidates: list[Candidate] = []
    try:
        for graph in graphs:
            candidates += measure_candidates(graph, plan, seconds=seconds / len(graphs), advance=tick)
    except (ProviderError, MissingExtraError) as error:
        because = str(error).partition(". ")[0]
        return Measurements(
            why_not=f"{_default_form(plan)}; nothing was measured, because this target does not run here: {because}"
        )
    measurements = Measurements(candidates=tuple(candidates), standard=plan.recipe.standard.name)
    best = measurements.fastest(graphs[0].planned.name, DEFAULT_PROVIDER)
    if measurements.provider != DEFAULT_PROVIDER or best is None:
        return measurements
    settings, note = measure_settings(graphs[0], plan.recipe.forms[best.form], plan, advance=tick)
    return dataclasses.replace(measurements, settings=settings, threads_note=note)


def choose_forms(plan: ExportPlan, graphs: Sequence[GraphForms], measurements: Measurements) -> Choice:
    """Return the form of each graph: the fastest that was measured, the one that the user named, or the default one.

    Raises PassError for a form that fuses less than its formula says.
    """
    models: dict[str, ir.Model] = {}
    rewritten: dict[str, tuple[Rewritten, ...]] = {}
    for graph in graphs:
        rows = _rewritten(graph.planned.plan.path, _forms(plan, graph.planned, measurements), plan.recipe.standard)
        models |= {row.path: graph.written(plan.recipe.forms[row.form]) for row in rows}
        rewritten[graph.planned.name] = rows
    return Choice(form=_form_of_files(plan), models=models, rewritten=rewritten, record=_record(plan, measurements))


def has_another_form(plan: ExportPlan, measurements: Measurements) -> bool:
    """Return whether another form can be tried after the chosen one is refused. There is none if the user named one."""
    named = plan.optimize != AUTO or plan.pack_padding
    return bool(measurements.candidates) or not (named or measurements.refused)


def _default_form(plan: ExportPlan) -> str:
    """Return which form is taken where nothing is measured, and why."""
    because = "--pack-padding asks for it" if plan.pack_padding else plan.target.because
    if len(plan.recipe.forms) == 1:
        because = f"{plan.recipe.name} has no other"
    return f"the form {plan.form.name}, because {because}"


def _form_of_files(plan: ExportPlan) -> str:
    """Return what the manifest calls the form of model.onnx itself."""
    if plan.optimize == NONE:
        return NONE
    return (plan.form if plan.target.compiled else plan.recipe.standard).name


def _forms(plan: ExportPlan, planned: PlannedGraph, measurements: Measurements) -> dict[str, Form]:
    """Return the form of a graph that each provider runs."""
    if plan.target.compiled:
        return {}
    if measurements.candidates:
        fastest = {provider: measurements.fastest(planned.name, provider) for provider in plan.target.providers}
        return {provider: plan.recipe.forms[row.form] for provider, row in fastest.items() if row is not None}
    standard = plan.recipe.standard
    form = standard if measurements.refused else plan.form
    without_effect = form is not standard and reasons_without_effect(form, planned.traits)
    return {next(iter(plan.target.providers)): standard if without_effect else form}


def _rewritten(path: str, forms: Mapping[str, Form], standard: Form) -> tuple[Rewritten, ...]:
    """Return a file for each form but the `standard` one, with all providers that run it."""
    providers: dict[str, tuple[str, ...]] = {}
    for provider, form in forms.items():
        if form is not standard:
            providers[form.name] = (*providers.get(form.name, ()), provider)
    return tuple(Rewritten(path=_path(path, names[0]), form=form, providers=names) for form, names in providers.items())


def _path(path: str, provider: str) -> str:
    """Return the file of a form for `provider`: model.onnx -> model.ort.onnx or model.openvino.onnx."""
    return f"{path.removesuffix('.onnx')}.{PROVIDERS[provider].file_suffix}.onnx"


def _record(plan: ExportPlan, measurements: Measurements) -> Optimization:
    """Return how the forms were chosen, for the manifest."""
    return Optimization(
        target=plan.target.name,
        workload=plan.workload.name,
        provider=measurements.provider,
        threads=measurements.settings.threads,
        spinning=measurements.settings.spinning,
        candidates=tuple(
            dataclasses.replace(row, outcome=CHOSEN if row.provider == measurements.provider else _best_there(row))
            if row in measurements.fastest_candidates
            else row
            for row in measurements.candidates
        ),
        note=_note(plan, measurements),
    )


def _best_there(row: Candidate) -> str:
    """Return the outcome of the fastest candidate on another provider, with what it gains in elapsed time alone."""
    _, semicolon, gain = row.outcome.partition(";")
    return f"{BEST_THERE}{semicolon}{gain}"


def _note(plan: ExportPlan, measurements: Measurements) -> str:
    if measurements.refused:
        return f"the standard form, because the default form {plan.form.name} is {measurements.refused}"
    if measurements.why_not:
        return measurements.why_not
    rivals = {kept: measurements.rivals(kept) for kept in measurements.kept}
    ahead = any(_speed(row).median > _speed(kept).median for kept, rows in rivals.items() for row in rows)
    what = "the form that no other is clearly ahead of" if ahead else "the fastest form on this machine"
    parts = [f"{what}, measured on the workload {plan.workload.name}"]
    for kept, rows in rivals.items():
        if unclear := [row for row in rows if _speed(row).may_be_ahead_of(_speed(kept))]:
            parts.append(f"{f'of {kept.variant}, ' if len(rivals) > 1 else ''}{_unclear(kept, unclear)}")
    best = _fastest(measurements.kept)
    if best is not None and _speed(best).high < 1.0:
        parts.append("every form that was measured is slower here than the graph in fp32")
    if measurements.threads_note:
        parts.append(f"threads: {measurements.threads_note}")
    return "; ".join(parts)


def _unclear(kept: Candidate, others: Sequence[Candidate]) -> str:
    """Return which candidates may be faster than the one that is kept of a graph, and what the user can do about it."""
    measured = ", ".join(f"{row.form} on {row.provider} measured {row.speedup:.2f}" for row in others)
    named = " or ".join(f"--optimize {row.form}" for row in others if row.provider == kept.provider)
    return (
        f"{measured}, but the machine was too busy, or the time too short, to tell "
        f"{'it' if len(others) == 1 else 'them'} from {kept.form} on {kept.provider}, {kept.speedup:.2f}, which is "
        f"kept: export again on a quiet machine{f', or name a form with {named}' if named else ''}"
    )


def _fastest(rows: Iterable[Candidate]) -> Candidate | None:
    """Return the first measured row that no later one is clearly ahead of; None where nothing was measured."""
    best: Candidate | None = None
    for row in rows:
        if row.speedup is not None and (best is None or _speed(row).is_ahead_of(_speed(best))):
            best = row
    return best


def _speed(row: Candidate) -> Speed:
    assert row.speedup is not None
    assert row.speedup_low is not None
    assert row.speedup_high is not None
    return Speed(median=row.speedup, low=row.speedup_low, high=row.speedup_high)
