"""The verdict of a report: whether the bundle is accepted, by how much, and what was not run."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rpln_export.bundle.report import Report
from rpln_runtime.engines.providers import PROVIDERS

FORM_OF_PROVIDER: Final = re.compile(r", .+ for ([a-z-]+)")
"""The end of a method's name where it ran the form of a provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict of a report.

    Attributes:
        accepted: whether every comparison is accepted, and a quantized form passes its gate.
        sentences: what was compared, and the worst of it.
        limits: what was not run, and other notes.
    """

    accepted: bool
    sentences: Sequence[str]
    limits: Sequence[str]


def verdict_from_report(report: Report) -> Verdict:
    """Return the verdict."""
    compared = bool(report.comparisons) and all(row.accepted(report.tolerance) for row in report.comparisons)
    gate = report.quantization is None or any(form.holds for form in report.quantization.forms)
    return Verdict(accepted=compared and gate, sentences=list(_sentences(report)), limits=list(_limits(report)))


def _sentences(report: Report) -> Iterator[str]:
    if not report.comparisons:
        yield "The report holds no comparison with eager torch."
        return
    worst = max(report.comparisons, key=lambda row: row.share)
    count = len(report.comparisons)
    where = f" The worst case: {worst.worst_case}." if worst.worst_case else ""
    yield (
        f"The {f'worst of {count} comparisons' if count > 1 else 'comparison'} with eager torch reaches "
        f"{worst.share:.1%} of what is accepted: {worst.output} by {worst.method}.{where}"
    )
    if decisions := sum(row.decisions for row in report.comparisons):
        agreeing = sum(row.agreeing for row in report.comparisons)
        yield f"{agreeing:,} of {decisions:,} argmaxes are equal."
    if report.quantization:
        kept = [form.form for form in report.quantization.forms if form.holds]
        held = f"is held by {', '.join(kept)}" if kept else "is held by no form"
        yield f"The gate, {report.quantization.gate}, {held}, on {report.quantization.held_back} texts."
        if caution := report.quantization.caution:
            yield f"{caution}."


def _limits(report: Report) -> Iterator[str]:
    providers = {match[1]: None for row in report.comparisons if (match := FORM_OF_PROVIDER.search(row.method))}
    elsewhere = [name for name in providers if name in PROVIDERS and PROVIDERS[name].device != "cpu"]
    if elsewhere:
        yield f"No GPU ran anything: the form for {' and '.join(elsewhere)} was run on the CPU."
    if engines := report.engines.engines:
        count = f"{len(engines)} engine{'s were' if len(engines) > 1 else ' was'}"
        yield f"{count} compiled, but not run: that takes a GPU."
    if not any(row.speedup is not None for row in report.optimization.candidates):
        yield f"No speed was measured: {report.optimization.note}."
    yield from report.notes
    if report.adapter:
        yield f"An adapter of peft was merged: {report.adapter}."
    if report.left_out:
        yield f"{len(report.left_out)} weights of the checkpoint were left out."
    yield from report.generation.sentences if report.generation else ()
    yield from report.tokenizer_notes
