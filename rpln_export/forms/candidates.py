"""The candidates for one graph, form by form and provider by provider, measured against the standard form."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.feeds.workloads import workload_feeds
from rpln_export.forms.graph_forms import GraphForms
from rpln_export.forms.timing import NOISE, Run, speedup
from rpln_export.plan.export_plan import ExportPlan
from rpln_graphs.forms import FORMS, STANDARD, Form, reasons_without_effect
from rpln_graphs.save import save_graphs
from rpln_graphs.sessions import writing_copies
from rpln_runtime.engines.providers import PROVIDERS, open_engine
from rpln_runtime.errors import ManifestError, MissingExtraError, ProviderError
from rpln_runtime.manifest import Candidate
from rpln_runtime.session import DEFAULT_PROVIDER

SECONDS: Final = 50.0
"""What measuring may take; the last candidate to begin, and the settings, come on top."""
OUT_OF_TIME: Final = f"not measured: the {SECONDS:.0f} seconds for measuring were over"
SETTINGS_SECONDS: Final = 5.0
SETTINGS_PAUSE: Final = 0.05
"""Threads that spin do so for milliseconds, and whoever runs next pays for it."""
FEW_CORES: Final = 4
"""With fewer, half of them is no choice."""
MEASURED: Final = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How ONNX Runtime's threads are set; None leaves it at its default, one a core."""

    threads: int | None = None
    spinning: bool | None = None


DEFAULT_SETTINGS: Final = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A form on a provider. `reason` says why it does not run."""

    provider: str
    form: Form
    reason: str | None = None


def measure_candidates(
    graph: GraphForms, plan: ExportPlan, *, seconds: float, advance: Callable[[], None]
) -> list[Candidate]:
    """Measure the entries of the plan's target for one graph in `seconds`, the most promising first.

    Raises PassError for a form that fuses less than its formula says, ProviderError or MissingExtraError where the
    target's first provider does not run here, GraphError without room for copies.
    """
    planned = graph.planned
    entries = entries_from_plan(planned, plan)
    starters = [entry for entry in entries if entry.reason is None]
    forms = dict.fromkeys([STANDARD, *(entry.form for entry in starters)])
    results: dict[Entry, float | str] = {}
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with writing_copies(folder):
            save_graphs({f"{form.name}.onnx": graph.written(form) for form in forms}, folder)
        baseline = Entry(provider=next(iter(plan.target.providers)), form=STANDARD)
        reference = _runs(planned, plan, folder, baseline)
        for entry in sorted(starters, key=lambda entry: list(FORMS).index(entry.form.name)):
            if entry == baseline:
                results[entry] = 1.0
            elif time.monotonic() > deadline:
                results[entry] = OUT_OF_TIME
            else:
                results[entry] = _speedup(planned, plan, folder, entry, reference, seconds=seconds / len(starters) / 2)
            advance()
    return [_candidate(planned, entry, results.get(entry, entry.reason or "")) for entry in entries]


def entries_from_plan(planned: PlannedGraph, plan: ExportPlan) -> list[Entry]:
    """What competes for a graph, with the reasons of what does not."""
    return [
        Entry(provider=provider, form=FORMS[form], reason=_reason(FORMS[form], provider, planned, plan))
        for provider, forms in plan.target.providers.items()
        for form in forms
    ]


def _reason(form: Form, provider: str, planned: PlannedGraph, plan: ExportPlan) -> str | None:
    """Why a form is not measured on a provider."""
    if plan.decodes and not PROVIDERS[provider].binds_memory:
        return "a decoder's cache is bound to memory, which only ONNX Runtime shares"
    if form.packs and not (plan.workload.has_padding or plan.pack_padding):
        return f"the workload {plan.workload.name} has no padding"
    if plan.pack_padding and not form.packs:
        return "--pack-padding asks for a packed form"
    if form is STANDARD:
        return None
    return "; ".join(reasons_without_effect(form, planned.traits)) or None


def _runs(
    planned: PlannedGraph, plan: ExportPlan, folder: Path, entry: Entry, settings: Settings | None = None
) -> list[Run]:
    """The workload on an engine of the saved form; idle threads do not spin, unless the settings say so."""
    settings = settings or Settings(spinning=False)
    engine = open_engine(
        folder / f"{entry.form.name}.onnx",
        provider=entry.provider,
        threads=settings.threads,
        spinning=settings.spinning,
    )
    names = planned.call.output_names
    dtypes = engine.inputs
    return [
        partial(engine.run, {name: array.astype(dtypes[name], copy=False) for name, array in feeds.items()}, names)
        for feeds in workload_feeds(planned, plan.workload, plan.limits_of(planned.plan))
    ]


def _speedup(
    planned: PlannedGraph, plan: ExportPlan, folder: Path, entry: Entry, reference: Sequence[Run], *, seconds: float
) -> float | str:
    """How fast an entry is, or why it does not run: a package that is missing, a graph its provider does not take."""
    try:
        runs = _runs(planned, plan, folder, entry)
    except (MissingExtraError, ManifestError, ProviderError) as error:
        return str(error)
    return speedup(reference, runs, seconds=seconds)


def _candidate(planned: PlannedGraph, entry: Entry, result: float | str) -> Candidate:
    return Candidate(
        variant=planned.name,
        form=entry.form.name,
        provider=entry.provider,
        speedup=None if isinstance(result, str) else result,
        outcome=result if isinstance(result, str) else MEASURED,
    )


def measure_settings(graph: GraphForms, form: Form, plan: ExportPlan) -> Settings:
    """Return the settings of ONNX Runtime's threads that suit a graph on the CPU: idle ones spin only if that gains."""
    no_spin, others = Settings(spinning=False), _other_settings()
    entry = Entry(provider=DEFAULT_PROVIDER, form=form)
    planned = graph.planned
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with writing_copies(folder):
            save_graphs({f"{form.name}.onnx": graph.written(form)}, folder)
        reference = _runs(planned, plan, folder, entry, no_spin)
        speeds = [
            speedup(
                reference,
                _runs(planned, plan, folder, entry, settings),
                seconds=SETTINGS_SECONDS / len(others),
                pause=SETTINGS_PAUSE,
            )
            for settings in others
        ]
    gain, fastest = max(zip(speeds, others, strict=True), key=lambda pair: pair[0])
    return fastest if gain > 1 + NOISE else no_spin


def _other_settings() -> list[Settings]:
    cores = os.cpu_count() or 1
    halves = [Settings(threads=cores // 2, spinning=False)] if cores >= FEW_CORES else []
    return [Settings(spinning=True), *halves]
