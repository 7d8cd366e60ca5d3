"""The most important parts of an export's report, as tables and lines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rpln_export.commands.show.console import make_console, make_table
from rpln_export.commands.show.engines import print_engines
from rpln_model.names import weights_in_words

if TYPE_CHECKING:
    from rpln_export.bundle.report import QuantizationReport, Report, Rescaling
    from rpln_export.validation.comparison import Comparison
    from rpln_runtime.manifest import Optimization


def print_report(report: "Report") -> None:
    """Print how the export was proven, how the form was chosen, where the bundle is, and what it took."""
    print_comparisons(report.comparisons)
    console = make_console()
    if report.adapter:
        console.print(f"merged: {report.adapter}", soft_wrap=True)
    if report.left_out:
        console.print(f"left out (--ignore-unexpected): {weights_in_words(report.left_out)}", soft_wrap=True)
    for sentence in report.generation.sentences if report.generation else ():
        console.print(sentence, soft_wrap=True)
    for note in report.tokenizer_notes:
        console.print(f"tokenizer: {note}", soft_wrap=True)
    for graph in report.graphs:
        if graph.rescaling:
            print_rescaling(graph.rescaling, f"{graph.path}: " if len(report.graphs) > 1 else "")
        if graph.saved:
            console.print(
                f"{graph.path}: embeddings in 8 bits, {graph.saved / 1e6:,.1f} MB less than in fp32", soft_wrap=True
            )
    if report.quantization:
        print_quantization(report.quantization)
    print_optimization(report.optimization)
    if report.engines.engines:
        print_engines(report.engines.engines)
    console.print(f"engines: {report.engines.note}", soft_wrap=True)
    seconds = ", ".join(f"{step.name} {step.seconds:.1f} s" for step in report.steps)
    size = sum(report.sizes.values())
    console.print(f"{report.destination}: {size / 1e6:,.1f} MB, {seconds}", soft_wrap=True)


def print_quantization(quantization: "QuantizationReport") -> None:
    """Print how accurate the quantized forms are on texts that were held back."""
    console = make_console()
    table = make_table("form", "way", "blocks not quantized", "difference (rms)", "equal decisions", "metric", "gate")
    for form in quantization.forms:
        last = form.curve[-1]
        equal = "" if last.agreement is None else f"{last.agreement:.2%} of {last.decisions:,}"
        gate = "holds" if form.holds else "does not hold"
        table.add_row(form.form, last.way, str(len(last.kept)), f"{last.rms:.2e}", equal, last.metric, gate)
    console.print(table)
    console.print(f"gate, on {quantization.held_back} texts: {quantization.gate}", soft_wrap=True)
    if quantization.caution:
        console.print(quantization.caution, soft_wrap=True)
    if quantization.metric:
        console.print(quantization.metric, soft_wrap=True)


def print_optimization(optimization: "Optimization") -> None:
    """Print the candidates that were measured, and how the form was chosen."""
    console = make_console()
    rows = [row for row in optimization.candidates if row.speedup is not None]
    if rows:
        table = make_table("graph", "form", "runs on", "speed", "interval", "")
        for row in rows:
            interval = f"{row.speedup_low:.2f} to {row.speedup_high:.2f}"
            table.add_row(row.variant, row.form, row.provider, f"{row.speedup:.2f}", interval, row.outcome)
        console.print(table)
    console.print(f"target {optimization.target}: {optimization.note}", soft_wrap=True)


def print_rescaling(rescaling: "Rescaling", label: str) -> None:
    """Print how far a graph in a lower type is from overflow. `label` says which graph it is."""
    console = make_console()
    scaled = f"scaled by 2^-{rescaling.shift}" if rescaling.shift else "unscaled"
    console.print(
        f"{label}the residual stream reaches {rescaling.residual_peak:.4g}; {scaled}, it stays "
        f"{rescaling.headroom:.0f} times below the limit of fp16"
    )
    for name, reach in rescaling.kept_float.items():
        console.print(f"kept in fp32: {name}, whose values reach {reach:.4g}")


def print_comparisons(comparisons: Sequence["Comparison"]) -> None:
    """Print a table of comparisons with eager torch; in fp32 also how far the output, and torch's own, is from fp64."""
    exact = any(row.distance for row in comparisons)
    from_fp64 = ("from fp64", "torch's own") if exact else ()
    table = make_table("output", "by", "cases", "largest difference", *from_fp64, "argmax agreement")
    for row in comparisons:
        agreement = "" if row.agreement is None else f"{row.agreement:.2%} of {row.decisions:,}"
        agreement += f", {row.ties} tie{'s' if row.ties > 1 else ''}" if row.ties else ""
        distances = [f"{found.largest:.2e}" if found else "" for found in (row.distance, row.noise)] if exact else []
        table.add_row(row.output, row.method, str(row.cases), f"{row.difference:.2e}", *distances, agreement)
    make_console().print(table)
