"""Which forms are measured, in which order and for how long. Speeds are made up, so that no machine matters."""

import dataclasses
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rpln_export.checkpoint.model import load_model
from rpln_export.checkpoint.planned_graphs import TracedGraph, planned_graphs_from_model
from rpln_export.feeds.workloads import workload_feeds
from rpln_export.forms import candidates, choice
from rpln_export.forms.candidates import MEASURED, OUT_OF_TIME, Settings, measure_candidates, measure_settings
from rpln_export.forms.graph_forms import GraphForms
from rpln_export.forms.speeds import REFERENCE, MeasuredSpeed, Speed
from rpln_export.forms.timing import Run
from rpln_export.plan.export_plan import ExportPlan, make_plan
from rpln_graphs.errors import GraphError
from rpln_graphs.forms import STANDARD
from rpln_graphs.rewriting.base import Context
from rpln_graphs.trace import trace_model
from rpln_runtime.engines.openvino import OpenVinoEngine
from rpln_runtime.engines.providers import PROVIDERS, open_engine

TASK = "token-classification"
Racer = tuple[ExportPlan, GraphForms]


@pytest.fixture(scope="module")
def racer(checkpoint: Callable[[str], Path]) -> Racer:
    return racer_from_plan(make_plan(str(checkpoint(TASK)), task=TASK, workload="ragged"))


def racer_from_plan(plan: ExportPlan) -> Racer:
    (planned,) = planned_graphs_from_model(plan, load_model(plan)[0])
    model = trace_model(planned.call.model, planned.plan.inputs, planned.plan.outputs)
    for fold in plan.folds:
        fold.configure(model, Context())(model)
    return plan, GraphForms(TracedGraph(planned=planned, model=model), plan)


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only what every installation has."""
    monkeypatch.setitem(sys.modules, "openvino", None)


def speeds(monkeypatch: pytest.MonkeyPatch, *made_up: float, elapsed: float | None = None) -> None:
    """Let measurements give these speeds by processor time, and `elapsed`, or the same, by elapsed time."""
    left = iter(made_up)

    def measure(*_: object, **__: object) -> MeasuredSpeed:
        processor = clear(next(left))
        return MeasuredSpeed(processor=processor, elapsed=clear(elapsed) if elapsed else processor)

    monkeypatch.setattr(candidates, "measure_speed", measure)


def clear(median: float) -> Speed:
    """Return a speed whose interval is narrow."""
    return Speed(median=median, low=median * 0.99, high=median * 1.01)


@pytest.mark.usefixtures("no_openvino")
def test_every_form_is_measured_and_what_is_not_installed_says_so(
    racer: Racer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, graph = racer
    speeds(monkeypatch, 3.0, 4.0, 1.1, 0.9, 1.0)
    done: list[None] = []

    rows = measure_candidates(graph, plan, seconds=60, advance=lambda: done.append(None))

    assert {row.form: row.speedup for row in rows if row.provider == "cpu"} == {
        "standard": 1.0,
        "packed": 3.0,
        "packed-attention": 4.0,
        "attention": 1.1,
        "fused": 0.9,
        "merged": 1.0,
    }
    others = [row for row in rows if row.provider == "openvino"]
    assert [row.speedup for row in others] == [None, None]
    assert all('pip install "rpln-runtime[openvino]"' in row.outcome for row in others)
    assert len(done) == len(rows)


@pytest.mark.parametrize(
    ("elapsed", "speedup", "outcome"),
    [
        (1.1, 1.1, MEASURED),
        (1.12, 1.1, MEASURED),  # the intervals overlap
        (1.4, 1.1, f"{MEASURED}; 1.40 (1.39 to 1.41) in elapsed time"),
        (0.9, 0.9, MEASURED),
    ],
)
@pytest.mark.usefixtures("no_openvino")
def test_a_gain_in_elapsed_time_alone_is_told(
    racer: Racer, monkeypatch: pytest.MonkeyPatch, elapsed: float, speedup: float, outcome: str
) -> None:
    plan, graph = racer
    speeds(monkeypatch, *[1.1] * 5, elapsed=elapsed)

    rows = measure_candidates(graph, plan, seconds=60, advance=lambda: None)

    measured = {(row.speedup, row.outcome) for row in rows if row.provider == "cpu" and row.form != "standard"}
    assert measured == {(speedup, outcome)}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.usefixtures("no_openvino")
def test_processor_time_counts_only_where_the_processor_computes(
    racer: Racer, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    plan, graph = racer
    rows = {name: dataclasses.replace(row, device=device) for name, row in PROVIDERS.items()}
    monkeypatch.setattr(candidates, "PROVIDERS", rows)
    asked: set[object] = set()

    def measure(*_: object, on_cpu: bool, **__: object) -> MeasuredSpeed:
        asked.add(on_cpu)
        return MeasuredSpeed(processor=REFERENCE, elapsed=REFERENCE)

    monkeypatch.setattr(candidates, "measure_speed", measure)
    measure_candidates(graph, plan, seconds=60, advance=lambda: None)

    assert asked == {device == "cpu"}


@pytest.mark.usefixtures("no_openvino")
def test_candidates_without_time_left_are_listed_as_not_measured(racer: Racer, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, graph = racer
    speeds(monkeypatch, 3.0)
    # The clock is read once at the start, and before each candidate.
    clock = iter([0.0, 1.0, 1.0, 1.0, *[100.0] * 20])
    monkeypatch.setattr(candidates, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    rows = measure_candidates(graph, plan, seconds=50, advance=lambda: None)

    assert [(row.form, row.speedup) for row in rows if row.speedup is not None] == [("standard", 1.0), ("packed", 3.0)]
    assert {row.form for row in rows if row.outcome == OUT_OF_TIME} >= {"attention", "fused", "merged"}


@pytest.mark.parametrize(
    ("cores", "gains", "best"),
    [
        (2, [1.2], Settings(spinning=True)),
        (2, [1.035], Settings(spinning=False)),
        (8, [1.1, 1.3], Settings(threads=4, spinning=False)),
        (8, [1.3, 1.1], Settings(spinning=True)),
        (8, [0.9, 0.8], Settings(spinning=False)),
    ],
)
def test_idle_threads_do_not_spin_unless_that_is_faster(
    racer: Racer, monkeypatch: pytest.MonkeyPatch, cores: int, gains: Sequence[float], best: Settings
) -> None:
    plan, graph = racer
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    speeds(monkeypatch, *gains)

    told: list[bool] = []
    chosen, note = measure_settings(graph, STANDARD, plan, advance=lambda: told.append(True))

    assert chosen == best
    assert len(told) == len(gains)
    changes = ["letting idle ones spin", "taking 4"]
    assert note == "; ".join(
        [
            f"{best.threads or 'one for each core'}, and idle ones {'spin' if best.spinning else 'wait'}",
            ", ".join(
                f"{change} was {gain:.2f} times as fast ({gain * 0.99:.2f} to {gain * 1.01:.2f})"
                for change, gain in zip(changes, gains, strict=False)
            ),
        ]
    )


@pytest.mark.usefixtures("no_openvino")
def test_settings_of_threads_count_to_what_is_measured(racer: Racer, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, graph = racer
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    speeds(monkeypatch, *[1.1] * 20)
    told: list[tuple[int, int]] = []

    measurements = choice.measure_forms(plan, [graph], lambda done, total: told.append((done, total)))

    total = len(measurements.candidates) + 2  # spinning, and half as many threads
    assert told == [(done, total) for done in range(1, total + 1)]


def test_a_disk_without_room_for_copies_is_named(racer: Racer, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, graph = racer

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(candidates, "save_graphs", full)
    said = r"could not be written to .*TMPDIR"
    with pytest.raises(GraphError, match=said):
        measure_candidates(graph, plan, seconds=60, advance=lambda: None)
    with pytest.raises(GraphError, match=said):
        measure_settings(graph, STANDARD, plan, advance=lambda: None)


@pytest.fixture
def decoder(checkpoint: Callable[[str], Path]) -> Racer:
    task = "text-generation"
    return racer_from_plan(make_plan(str(checkpoint(task)), task=task, workload="throughput"))


def test_openvino_is_measured_for_decoders_with_the_cache_that_it_keeps(
    decoder: Racer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed (extra [openvino])")
    plan, graph = decoder

    def run_with_cache_as_input(*_: object) -> None:
        pytest.fail("a generation would not run the graph like this")

    monkeypatch.setattr(OpenVinoEngine, "run", run_with_cache_as_input)

    def measure(_: Sequence[Run], contender: Sequence[Run], **__: object) -> MeasuredSpeed:
        for run in contender:
            run()
        return MeasuredSpeed(processor=clear(2.0), elapsed=clear(2.0))

    monkeypatch.setattr(candidates, "measure_speed", measure)
    rows = measure_candidates(graph, plan, seconds=60, advance=lambda: None)

    assert {row.form: row.speedup for row in rows if row.provider == "openvino"} == {"standard": 2.0, "packed": None}


def test_a_decoder_is_measured_on_a_prompt_and_on_the_steps_after_it(decoder: Racer) -> None:
    plan, graph = decoder
    limits = plan.limits_of(graph.planned.plan)
    (prompt, once), (step, often) = workload_feeds(graph.planned, plan.workload, limits)
    length = min(128, limits.usable_length)

    assert (prompt["input_ids"].shape, once) == ((8, length), 1)
    assert (step["input_ids"].shape, often) == ((8, 1), 19)
    assert step["attention_mask"].shape[1] == min(length + 1, limits.usable_length)


def test_a_cache_that_is_given_out_is_not_copied(decoder: Racer, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, graph = decoder
    asked: list[Sequence[str]] = []

    def opened(path: Path, **options: Any) -> Any:
        return SimpleNamespace(inputs=open_engine(path, **options).inputs, run=lambda _, names: asked.append(names))

    def measure(reference: Sequence[Run], *_: object, **__: object) -> MeasuredSpeed:
        for run in reference:
            run()
        return MeasuredSpeed(processor=REFERENCE, elapsed=REFERENCE)

    monkeypatch.setattr(candidates, "open_engine", opened)
    monkeypatch.setattr(candidates, "measure_speed", measure)
    measure_candidates(graph, plan, seconds=60, advance=lambda: None)

    assert {tuple(names) for names in asked} == {("logits",)}
