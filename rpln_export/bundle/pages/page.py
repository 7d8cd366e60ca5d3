"""The page of one report: report.html, which needs nothing but itself."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rpln_export.bundle.pages.layers import blocks_of_layer
from rpln_export.bundle.pages.plots import candidates_plot, drift_plot, headroom_plot, quantization_plot
from rpln_export.bundle.pages.running import snippets
from rpln_export.bundle.report import Report, Rescaling
from rpln_export.bundle.verdict import verdict_from_report
from rpln_export.destination import partial_file
from rpln_export.errors import DestinationError
from rpln_export.validation.drift import BlockDrift
from rpln_export.validation.proof import CaseOutcome, GraphDrift
from rpln_graphs.stress import MASK_KINDS
from rpln_runtime.manifest import MANIFEST_NAME

PAGE_NAME: Final = "report.html"
"""The file of a bundle that people look at."""
SHARES: Final = (0.1, 0.25, 0.5, 0.75, 1.0)
"""The shares of what is accepted at which the matrix changes its colour."""
FEW_NAMES: Final = 6
"""The most names of inputs or outputs that are all shown."""
SECTIONS: Final = {
    "exported": "What was exported",
    "run": "How to run it",
    "validation": "Validation",
    "drift": "Drift",
    "headroom": "Headroom",
    "quantization": "Quantization",
    "layer": "One layer",
    "operators": "Operators and sizes",
    "candidates": "Candidates",
    "engines": "Engines",
    "steps": "Time and memory",
}
"""The sections of the page below its verdict, by their ids."""


def write_page(report: Report, folder: Path) -> None:
    """Write report.html into `folder`."""
    (folder / PAGE_NAME).write_text(page_from_report(report), encoding="utf-8")


def save_page(page: str, path: Path) -> None:
    """Write a page to the file `path`, which a bundle must not hold: its manifest lists what an export wrote.

    Raises DestinationError for a path in a bundle, and for one that cannot be written.
    """
    if (path.parent / MANIFEST_NAME).exists():
        raise DestinationError(
            f"{path} lies in a bundle, whose manifest has the hash of every file. Choose another file with -o."
        )
    with partial_file(path) as written:
        written.write_text(page, encoding="utf-8")


def page_from_report(report: Report) -> str:
    """Return the page of a report. Texts in it are escaped; the same report gives the same page."""
    folder = PurePath(report.destination).name
    return render(
        "report.html.jinja",
        report=report,
        sections=[(id_, title) for id_, title in SECTIONS.items() if id_ != "quantization" or report.quantization],
        verdict=verdict_from_report(report),
        facts=_facts(report),
        folder=folder,
        snippets=snippets(report.task, folder),
        matrices=_matrices(report.cases),
        share_legend=_share_legend(),
        drifts=[_drift(report, drift) for drift in report.drifts if drift.blocks],
        no_drift="The drift was not measured: the graph computes from the start only what its head reads.",
        headrooms=[
            _headroom(graph.path, graph.rescaling)
            for graph in report.graphs
            if graph.rescaling is not None and graph.rescaling.layers
        ],
        no_headroom="No graph was rescaled for fp16, so there is no headroom to show.",
        quantization_svg=_quantization_svg(report),
        layers=_layers(report),
        total=sum(report.sizes.values()),
        largest=max(report.sizes.values(), default=1) or 1,
        operators=_operators(report),
        candidates=_candidates(report),
        reference=f"1 is {'the graph in fp32' if report.quantization else 'the standard form'} on the first provider.",
        longest_step=max((step.seconds for step in report.steps), default=1.0) or 1.0,
    )


def render(template: str, **context: Any) -> str:
    """Return a page by one of the templates beside this module, with the style and the script of all pages."""
    environment = _environment()
    assert environment.loader is not None
    style, script = (environment.loader.get_source(environment, name)[0] for name in ("style.css", "copy.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"style": style, "script": script, "script_hash": digest}
    safe = {name: Markup(text) for name, text in own.items()}  # noqa: S704 # files of this package
    return environment.get_template(template).render(**safe, **context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rpln_export.bundle.pages"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "size": size, "share_class": _share_class, "summed_up": _summed_up}
    return environment


def percent(share: float) -> str:
    """Return a share in percent, with a digit behind the point where it is small."""
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def size(count: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit, width in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= width:
            return f"{count / width:,.1f} {unit}"
    return f"{count} bytes"


def _facts(report: Report) -> list[tuple[str, str]]:
    return [
        ("Parameters", f"{report.parameters:,}"),
        ("Size of the bundle", size(sum(report.sizes.values()))),
        ("Precision", report.recipe),
        ("Runs on", report.optimization.provider),
        ("Target", report.optimization.target),
        ("Opset", str(report.opset)),
        ("Engines", str(len(report.engines.engines))),
    ]


def _summed_up(names: Sequence[str]) -> str:
    if len(names) <= FEW_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: FEW_NAMES - 1])} and {len(names) - FEW_NAMES + 1} more"


def _share_class(share: float) -> str:
    return f"share-{1 + sum(share > bound for bound in SHARES)}"


def _share_legend() -> list[tuple[str, str]]:
    words = [f"up to {bound:.0%}" for bound in SHARES]
    return [(f"share-{place}", word) for place, word in enumerate([*words, "refused"], start=1)]


def _matrices(cases: Sequence[CaseOutcome]) -> list[Mapping[str, Any]]:
    """Return a table for each group of graphs: the worst case of each batch and length under each mask."""
    matrices: list[Mapping[str, Any]] = []
    for graphs in dict.fromkeys(case.graphs for case in cases):
        worst: dict[tuple[int, int, str], CaseOutcome] = {}
        for case in cases:
            key = (case.batch, case.length, case.mask)
            if case.graphs == graphs and (key not in worst or case.share > worst[key].share):
                worst[key] = case
        masks = [mask for mask in MASK_KINDS if any(key[2] == mask for key in worst)]
        sizes = sorted({key[:2] for key in worst})
        rows = [
            {"batch": batch, "length": length, "cells": [worst.get((batch, length, mask)) for mask in masks]}
            for batch, length in sizes
        ]
        matrices.append({"title": f"The graph {graphs}, by padding of the texts", "masks": masks, "rows": rows})
    return matrices


def _drift(report: Report, drift: GraphDrift) -> Mapping[str, Any]:
    last = drift.blocks[-1]
    label = f"{drift.path} in {report.recipe}"
    return {
        "path": drift.path,
        "case": drift.case,
        "blocks": drift.blocks,
        "svg": drift_plot({label: drift.blocks}, title=f"Drift of {drift.path}"),
        "sentence": f"Behind {last.block}, the graph is {last.distance.largest:.2g} from fp64, where values reach "
        f"{last.reach:.3g}. Eager torch in fp32 is off by {last.noise.largest:.2g} itself{_compared(last)}.",
    }


def _compared(row: BlockDrift) -> str:
    """Return how many times as far as eager torch the graph is from fp64, as a clause; empty if torch is exact."""
    if not row.noise.largest:
        return ""
    times = row.distance.largest / row.noise.largest
    return f": the graph differs {f'{times:,.0f}' if times >= 10 else f'{times:.2g}'} times as much"


def _headroom(path: str, rescaling: Rescaling) -> Mapping[str, Any]:
    svg = headroom_plot(rescaling.layers, title=f"fp16 headroom of {path}")
    return {"path": path, "rescaling": rescaling, "svg": svg}


def _quantization_svg(report: Report) -> Markup | None:
    """Return the curve of quantization; None where the gate held at once, so that it is a single point."""
    forms = [form for form in report.quantization.forms if len(form.curve) > 1] if report.quantization else []
    return quantization_plot(forms, title="Difference by blocks in fp32") if forms else None


def _layers(report: Report) -> list[Mapping[str, Any]]:
    if report.layer is None:
        return []
    return [
        {
            "title": "As traced" if form.form == "traced" else f"{form.form} form",
            "subtitle": "before any rewriting" if form.form == "traced" else f"as published in {form.path}",
            "count": len(form.nodes),
            "blocks": blocks_of_layer(form),
        }
        for form in report.layer.forms
    ]


def _operators(report: Report) -> Mapping[str, Any]:
    columns = report.operators_by_file
    totals = {name: sum(counts.get(name, 0) for _, counts in columns) for _, counts in columns for name in counts}
    return {"columns": columns, "names": sorted(totals, key=lambda name: (-totals[name], name))}


def _candidates(report: Report) -> list[tuple[str, Markup]]:
    """Return a plot for each graph whose candidates were measured, with the name of its variant."""
    measured = [row for row in report.optimization.candidates if row.speedup is not None]
    return [
        (variant, candidates_plot([row for row in measured if row.variant == variant], title=f"Speeds of {variant}"))
        for variant in dict.fromkeys(row.variant for row in measured)
    ]
