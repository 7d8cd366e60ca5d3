"""Chooses the form of one checkpoint many times, half of them beside a process that burns a core, and counts.

A choice is good if it is the same every time: gains that come and go with other work on the machine are no gains. What
an export does before it measures gives the same graph each time, so that it is done once. The results go to
benchmarks/results/choices.md.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.machine import describe_machine, versions_of
from rpln_export.checkpoint.model import load_model
from rpln_export.checkpoint.planned_graphs import TracedGraph, planned_graphs_from_model
from rpln_export.forms.choice import CHOSEN, choose_forms, measure_forms
from rpln_export.forms.graph_forms import GraphForms
from rpln_export.plan.export_plan import ExportPlan, make_plan
from rpln_graphs.rewriting.base import Context
from rpln_graphs.trace import trace_model

RESULTS: Final = Path(__file__).with_name("results") / "choices.md"
CHOICES: Final = 20
TASK: Final = "token-classification"
BURN: Final = "while True: pass"
"""What the process beside a measurement does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A choice: where the graph runs, in which form, with which threads, what was measured, and beside what."""

    burning: bool
    load: float
    chosen: str
    threads: str
    speeds: str
    seconds: float


def main() -> None:
    """Choose, calm and busy in turn, and write the table after each choice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choices", type=int, default=CHOICES)
    parser.add_argument("--checkpoint", help="a folder; by default the embedded tagger")
    arguments = parser.parse_args()
    plan = make_plan(arguments.checkpoint, task=TASK)
    graph = _graph(plan)
    made: list[Made] = []
    for number in range(arguments.choices):
        burning = number % 2 == 1
        with _burner(burning=burning):
            made.append(_choice(plan, graph, burning=burning))
        print(made[-1], flush=True)
        RESULTS.write_text(_markdown(made, plan.name), encoding="utf-8")


def _graph(plan: ExportPlan) -> GraphForms:
    """Return the graph of the plan, traced and folded."""
    (planned,) = planned_graphs_from_model(plan, load_model(plan)[0])
    model = trace_model(planned.call.model, planned.plan.inputs, planned.plan.outputs)
    for fold in plan.folds:
        fold.configure(model, Context())(model)
    return GraphForms(TracedGraph(planned=planned, model=model), plan)


@contextmanager
def _burner(*, burning: bool) -> Iterator[None]:
    """Let another process keep one core busy meanwhile, if `burning`."""
    if not burning:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", BURN]) as process:  # noqa: S603 - the constant above
        try:
            yield
        finally:
            process.kill()


def _choice(plan: ExportPlan, graph: GraphForms, *, burning: bool) -> Made:
    """Measure as an export does, and return what is chosen."""
    begun = time.perf_counter()
    record = choose_forms(plan, [graph], measure_forms(plan, [graph], lambda *_: None)).record
    seconds = time.perf_counter() - begun
    (chosen,) = [row for row in record.candidates if row.outcome == CHOSEN]
    threads = "every core" if record.threads is None else str(record.threads)
    return Made(
        burning=burning,
        load=os.getloadavg()[0],
        chosen=f"{chosen.form} on {chosen.provider}",
        threads=f"{threads}, {'spinning' if record.spinning else 'waiting'}",
        speeds=", ".join(
            f"{row.form} on {row.provider} {row.speedup:.2f} ({row.speedup_low:.2f} to {row.speedup_high:.2f})"
            f"{''.join(row.outcome.partition(';')[1:])}"
            for row in record.candidates
            if row.speedup is not None and (row.form, row.provider) != ("standard", "cpu")
        ),
        seconds=seconds,
    )


def _markdown(made: Sequence[Made], name: str) -> str:
    machine = describe_machine(threads=os.cpu_count() or 1)
    versions = versions_of(("onnxruntime", "openvino"))
    forms = Counter(row.chosen for row in made).most_common()
    threads = Counter(row.threads for row in made).most_common()
    burning = sum(row.burning for row in made)
    rows = "\n".join(
        f"| {number} | {'a burnt core' if row.burning else ''} | {row.load:.1f} | {row.chosen} | {row.threads} | "
        f"{row.speeds} | {row.seconds:.0f} |"
        for number, row in enumerate(made, 1)
    )
    return f"""# {len(made)} choices of a form

`python -m benchmarks.choices`: the form of {name} was chosen {len(made)} times, {burning} of them beside a process that
burns a core.

{machine["processor"]}, {machine["cores"]} cores, {machine["system"]};
{", ".join(f"{package} {version}" for package, version in versions.items())}.

- The same form {forms[0][1]} times of {len(made)}: {", ".join(f"{form}: {count}" for form, count in forms)}.
- Threads: {", ".join(f"{setting}: {count}" for setting, count in threads)}.

The load is the number of processes that want to run, as the system counted them at the end. The speeds are medians with
their intervals, relative to the standard form on ONNX Runtime, by processor time; by elapsed time where that is clearly
below 1. Where more is gained in elapsed time, it is added.

| choice | beside | load | chosen | threads | speeds | seconds |
|---|---|---|---|---|---|---|
{rows}
"""


if __name__ == "__main__":
    main()
