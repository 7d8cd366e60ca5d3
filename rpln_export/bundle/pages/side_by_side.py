"""Reports side by side: what two or more bundles have in common, and where they differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rpln_export.bundle.pages.page import percent, render, size
from rpln_export.bundle.pages.plots import drift_plot
from rpln_export.bundle.report import Report
from rpln_export.bundle.verdict import verdict_from_report
from rpln_export.forms.choice import CHOSEN
from rpln_export.validation.comparison import TINY
from rpln_graphs.forms import ALL_FORMS
from rpln_runtime.manifest import Candidate

NOTHING: Final = "–"
"""What stands where a report has no such fact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A row of the comparison: its name, and its value for each bundle."""

    name: str
    values: Sequence[str]

    @property
    def differs(self) -> bool:
        """Whether the bundles differ in it."""
        return len(set(self.values)) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """Bundles side by side: their names, and the facts about them by topic."""

    names: Sequence[str]
    topics: Mapping[str, Sequence[Fact]]


def side_by_side(reports: Mapping[str, Report]) -> SideBySide:
    """Return the facts of `reports`, which are named after their bundles. Facts that no report has are left out."""
    topics = {}
    for topic, facts in FACTS.items():
        rows = [Fact(name=name, values=[value(report) for report in reports.values()]) for name, value in facts.items()]
        if found := [row for row in rows if set(row.values) != {NOTHING}]:
            topics[topic] = found
    return SideBySide(names=list(reports), topics=topics)


def page_from_reports(reports: Mapping[str, Report]) -> str:
    """Return the page of several reports, which are named after their bundles."""
    drifts = {
        f"{name} ({report.recipe})": report.drifts[0].blocks
        for name, report in reports.items()
        if report.drifts and report.drifts[0].blocks
    }
    svg = drift_plot(drifts, title="Drift of the first graphs") if drifts else ""
    return render("side_by_side.html.jinja", compared=side_by_side(reports), drift_svg=svg)


def _worst(report: Report) -> str:
    return percent(max(row.share for row in report.comparisons)) if report.comparisons else NOTHING


def _agreement(report: Report) -> str:
    decisions = sum(row.decisions for row in report.comparisons)
    agreeing = sum(row.agreeing for row in report.comparisons)
    return f"{agreeing / decisions:.2%} of {decisions:,}" if decisions else NOTHING


def _drift(report: Report) -> str:
    if not report.drifts or not report.drifts[0].blocks:
        return NOTHING
    last = report.drifts[0].blocks[-1]
    reach = max(last.reach, TINY)
    return f"{last.distance.largest / reach:.1e} (torch {last.noise.largest / reach:.1e})"


def _headroom(report: Report) -> str:
    found = [value.headroom for graph in report.graphs if graph.rescaling for value in graph.rescaling.layers.values()]
    return f"{min(found):,.0f} times" if found else NOTHING


def _published(report: Report) -> str:
    chosen = _chosen(report)
    if not chosen:
        return report.optimization.note
    several = len(chosen) > 1
    return "; ".join(f"{f'{row.variant}: ' if several else ''}{row.form}, {_speed(row)}" for row in chosen)


def _chosen(report: Report) -> list[Candidate]:
    return [row for row in report.optimization.candidates if row.outcome == CHOSEN and row.speedup_low is not None]


def _speed(row: Candidate) -> str:
    return f"{row.speedup:.2f} ({row.speedup_low:.2f} to {row.speedup_high:.2f})"


def _of_quantization(value: Callable[[Report], str]) -> Callable[[Report], str]:
    return lambda report: value(report) if report.quantization else NOTHING


def _gate(report: Report) -> str:
    assert report.quantization is not None
    holds = any(form.holds for form in report.quantization.forms)
    return f"{report.quantization.gate}: {'holds' if holds else 'does not hold'}"


def _forms(report: Report) -> str:
    assert report.quantization is not None
    return "; ".join(
        f"{form.form}: rms {form.curve[-1].rms:.1e}, {len(form.curve[-1].kept)} blocks in fp32"
        for form in report.quantization.forms
        if form.curve
    )


def _metric(report: Report) -> str:
    assert report.quantization is not None
    if not report.quantization.metric:
        return NOTHING
    published = {_rounds_as(row.form) for row in _chosen(report)}
    forms = [form for form in report.quantization.forms if form.curve and (form.form in published or not published)]
    found = [f"{form.curve[-1].metric} in {report.recipe} ({form.form})" for form in forms if form.curve[-1].metric]
    return ", ".join([report.quantization.metric, *found])


def _rounds_as(form: str) -> str:
    """Return the name of the form that a form shares its rounding with, which is its own where it shares none."""
    return (ALL_FORMS[form].accurate_as if form in ALL_FORMS else "") or form


FACTS: Final[Mapping[str, Mapping[str, Callable[[Report], str]]]] = {
    "Verdict": {
        "accepted": lambda report: "yes" if verdict_from_report(report).accepted else "no",
        "worst comparison, of what is accepted": _worst,
        "equal argmaxes": _agreement,
    },
    "Exported": {
        "checkpoint": lambda report: report.name,
        "task": lambda report: report.task,
        "precision": lambda report: report.recipe,
        "parameters": lambda report: f"{report.parameters:,}",
        "opset": lambda report: str(report.opset),
    },
    "Sizes": {
        "all files": lambda report: size(sum(report.sizes.values())),
        "weights": lambda report: size(sum(sum(graph.weights.values()) for graph in report.graphs)),
        "operators": lambda report: ", ".join(
            f"{path} {sum(counts.values())}" for path, counts in report.operators_by_file
        ),
        "engines": lambda report: str(len(report.engines.engines)),
    },
    "Drift and range": {
        "difference from fp64 behind the last block, of the range": _drift,
        "least headroom of fp16": _headroom,
    },
    "Speeds": {
        "form published, and its speed by its own reference": _published,
        "time of the export": lambda report: f"{sum(step.seconds for step in report.steps):.1f} s",
        "peak memory of the export": lambda report: size(max((step.peak_memory for step in report.steps), default=0)),
    },
    "Quantization": {
        "gate": _of_quantization(_gate),
        "forms": _of_quantization(_forms),
        "metric": _of_quantization(_metric),
    },
    "Settings": {
        "target": lambda report: report.optimization.target,
        "workload": lambda report: report.optimization.workload,
        "runs on": lambda report: report.optimization.provider,
        "threads": lambda report: str(report.optimization.threads or "one for each core"),
        "made with": lambda report: ", ".join(f"{name} {version}" for name, version in report.versions.items()),
    },
}
"""The facts by topic, each with what reads it from a report."""
