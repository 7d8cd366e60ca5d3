"""The candidates for a graph, one for each form and provider of the target, and their measurement."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.feeds.workloads import workload_feeds
from rpln_export.forms.graph_forms import GraphForms
from rpln_export.forms.kept_runs import kept_runs
from rpln_export.forms.speeds import REFERENCE, MeasuredSpeed
from rpln_export.forms.timing import Run, measure_speed
from rpln_export.plan.export_plan import ExportPlan
from rpln_graphs.forms import STANDARD, Form, reasons_without_effect
from rpln_graphs.save import save_graphs
from rpln_graphs.sessions import writing_copies
from rpln_graphs.temporary import temporary_folder
from rpln_runtime.engines.providers import PROVIDERS, open_engine
from rpln_runtime.errors import ManifestError, MissingExtraError, ProviderError
from rpln_runtime.generation.cache import PRESENT, bindings_that_keep
from rpln_runtime.manifest import Candidate
from rpln_runtime.session import DEFAULT_PROVIDER

SECONDS: Final = 30.0
"""The most seconds that measuring the graphs of an export takes: whoever waits for an export would not wait longer.

A calm machine needs fewer, for its intervals are soon narrow. A candidate that has begun by then gets its fewest
rounds, and settings of threads are measured after that.
"""
SECONDS_QUANTIZED: Final = 60.0
"""The same for quantized graphs. Their export takes longer anyway, and speed is its purpose."""
OUT_OF_TIME: Final = "not measured, because the time for measuring was over"
"""The outcome of a candidate that there was no time for."""
SETTINGS_SECONDS: Final = 5.0
"""The most seconds that measuring settings of threads takes."""
SETTINGS_PAUSE: Final = 0.05
"""Seconds between two runs. Idle threads may spin for milliseconds and slow down the run after theirs."""
FEW_CORES: Final = 4
"""The fewest cores on which half as many threads as cores is worth a measurement."""
MEASURED: Final = "measured"
"""The outcome of a candidate that was measured."""
UNCLEAR: Final = "measured, but the machine was too busy, or the time too short, to tell"
"""The outcome of a candidate that may be faster than the standard form or not, as far as was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of ONNX Runtime's threads.

    Attributes:
        threads: the most threads that one operator uses; None means one for each core.
        spinning: whether idle threads spin; None means ONNX Runtime's default.
    """

    threads: int | None = None
    spinning: bool | None = None

    def __str__(self) -> str:
        return f"{self.threads or 'one for each core'}, and idle ones {'spin' if self.spinning else 'wait'}"


DEFAULT_SETTINGS: Final = Settings()
"""The settings where nothing was measured."""
WAITING: Final = Settings(spinning=False)
"""The settings that forms are measured with and other settings are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A candidate before its measurement: a form on a provider.

    `reason` says why it is not measured; None if it is.
    """

    provider: str
    form: Form
    reason: str | None = None


def measure_candidates(
    graph: GraphForms, plan: ExportPlan, *, seconds: float, advance: Callable[[], None]
) -> list[Candidate]:
    """Measure the candidates for one graph of the plan in about `seconds`, and return all with their outcomes.

    They are measured in the order of the recipe's forms. The reference is the graph before any form, on the target's
    first provider: the standard form, in fp32 where forms are quantized. `advance` is called after each candidate.

    Raises PassError for a form that fuses less than its formula says, ProviderError or MissingExtraError where the
    target's first provider does not run here, and GraphError where the disk has no room for the graphs.
    """
    planned = graph.planned
    entries = entries_from_plan(planned, plan)
    measured = [entry for entry in entries if entry.reason is None]
    forms = dict.fromkeys([STANDARD, *(entry.form for entry in measured)])
    results: dict[Entry, MeasuredSpeed | str] = {}
    deadline = time.monotonic() + seconds
    with temporary_folder() as folder:
        with writing_copies(folder):
            save_graphs({f"{form.name}.onnx": graph.written(form) for form in forms}, folder)
        baseline = Entry(provider=next(iter(plan.target.providers)), form=STANDARD)
        reference = _runs(planned, plan, folder, baseline)
        ordered = sorted(measured, key=lambda entry: list(plan.recipe.forms).index(entry.form.name))
        for done, entry in enumerate(ordered):
            left = deadline - time.monotonic()
            if entry == baseline:
                results[entry] = MeasuredSpeed(processor=REFERENCE, elapsed=REFERENCE)
            elif left <= 0:
                results[entry] = OUT_OF_TIME
            else:
                share = left / (len(ordered) - done)
                results[entry] = _speed(planned, plan, folder, entry, reference, seconds=share)
            advance()
    return [_candidate(planned, entry, results.get(entry, entry.reason or "")) for entry in entries]


def measure_settings(
    graph: GraphForms, form: Form, plan: ExportPlan, *, advance: Callable[[], None]
) -> tuple[Settings, str]:
    """Return the settings of ONNX Runtime's threads that run a graph fastest on the CPU, and how fast others are.

    By default, idle threads do not spin. Other settings are returned where they are ahead as a form has to be.
    `advance` is called after each of the `other_settings`.
    """
    others = other_settings()
    entry = Entry(provider=DEFAULT_PROVIDER, form=form)
    planned = graph.planned
    best, best_speed = WAITING, REFERENCE
    measured: list[str] = []
    with temporary_folder() as folder:
        with writing_copies(folder):
            save_graphs({f"{form.name}.onnx": graph.written(form)}, folder)
        reference = _runs(planned, plan, folder, entry)
        for settings in others:
            runs = _runs(planned, plan, folder, entry, settings)
            share = SETTINGS_SECONDS / len(others)
            speed = measure_speed(reference, runs, seconds=share, pause=SETTINGS_PAUSE).deciding
            measured.append(
                f"{_change(settings)} was {speed.median:.2f} times as fast ({speed.low:.2f} to {speed.high:.2f})"
            )
            if speed.is_ahead_of(best_speed):
                best, best_speed = settings, speed
            advance()
    return best, f"{best}; {', '.join(measured)}"


def entries_from_plan(planned: PlannedGraph, plan: ExportPlan) -> list[Entry]:
    """Return the candidates for a graph: each form of the plan's target, on each of its providers."""
    return [
        Entry(provider=provider, form=form, reason=_reason(form, planned, plan))
        for provider, names in plan.target.providers.items()
        for name, form in plan.recipe.forms.items()
        if name in names
    ]


def _reason(form: Form, planned: PlannedGraph, plan: ExportPlan) -> str | None:
    """Return why a form is not measured; None where it is."""
    if form.packs and not (plan.workload.has_padding or plan.pack_padding):
        return f"the workload {plan.workload.name} has no padding"
    if plan.pack_padding and not form.packs:
        return "--pack-padding asks for a packed form"
    if form is STANDARD:
        return None
    return "; ".join(reasons_without_effect(form, planned.traits)) or None


def _change(settings: Settings) -> str:
    """Return in words what other settings do to those that forms are measured with."""
    return "letting idle ones spin" if settings.threads is None else f"taking {settings.threads}"


def _runs(
    planned: PlannedGraph, plan: ExportPlan, folder: Path, entry: Entry, settings: Settings = WAITING
) -> list[Run]:
    """Return a function for each batch of the workload, which runs the saved form of `entry` on it with `settings`."""
    engine = open_engine(
        folder / f"{entry.form.name}.onnx",
        provider=entry.provider,
        threads=settings.threads,
        spinning=settings.spinning,
    )
    # Generation binds the cache to memory: that some engines copy what they return is no part of it.
    names = [name for name in planned.call.output_names if not name.startswith(PRESENT)]
    dtypes = engine.inputs
    batches = [
        ({name: array.astype(dtypes[name], copy=False) for name, array in feeds.items()}, times)
        for feeds, times in workload_feeds(planned, plan.workload, plan.limits_of(planned.plan))
    ]
    if planned.plan.variant.shortest_past == 0 and (keeping := bindings_that_keep(engine, dtypes)) is not None:
        return kept_runs(keeping, batches)
    return [partial(_run_often, partial(engine.run, feeds, names), times) for feeds, times in batches]


def _run_often(run: Run, times: int) -> None:
    """Run something so many times, without a pause."""
    for _ in range(times):
        run()


def _speed(
    planned: PlannedGraph, plan: ExportPlan, folder: Path, entry: Entry, reference: Sequence[Run], *, seconds: float
) -> MeasuredSpeed | str:
    """Return how many times as fast as the reference an entry is, or else why it does not run."""
    try:
        runs = _runs(planned, plan, folder, entry)
    except (MissingExtraError, ManifestError, ProviderError) as error:
        return str(error)
    return measure_speed(reference, runs, seconds=seconds, on_cpu=PROVIDERS[entry.provider].device == "cpu")


def _candidate(planned: PlannedGraph, entry: Entry, result: MeasuredSpeed | str) -> Candidate:
    """Return the manifest's row of an entry; `result` is its speed, or why it has none."""
    if isinstance(result, str):
        return Candidate(
            variant=planned.name, form=entry.form.name, provider=entry.provider, speedup=None, outcome=result
        )
    speed = result.deciding
    return Candidate(
        variant=planned.name,
        form=entry.form.name,
        provider=entry.provider,
        speedup=speed.median,
        speedup_low=speed.low,
        speedup_high=speed.high,
        outcome=_outcome(result),
    )


def _outcome(measured: MeasuredSpeed) -> str:
    """Return the outcome of a measurement. It says so if a candidate gains more in elapsed time than it is given."""
    if measured.deciding.is_unclear:
        return UNCLEAR
    if measured.elapsed.is_ahead_of(measured.deciding):
        return f"{MEASURED}; {measured.elapsed} in elapsed time"
    return MEASURED


def other_settings() -> list[Settings]:
    """Return the settings that are compared with threads that do not spin, one for each core."""
    cores = os.cpu_count() or 1
    halves = [Settings(threads=cores // 2, spinning=False)] if cores >= FEW_CORES else []
    return [Settings(spinning=True), *halves]
