"""What a person sees: progress on stderr, nothing where that is no terminal, and tables on stdout."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from rpln_export.inspection import Inspection
    from rpln_export.report import Report, Rescaling
    from rpln_export.steps import Step
    from rpln_export.validate import Comparison
    from rpln_runtime import Generator


class ProgressWatcher:
    """Shows each step as it runs; steps that count get a bar. Use as a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, name: str) -> None:
        """Show that a step begins."""
        self._task = self._progress.add_task(name, total=None)

    def advance(self, done: int, total: int) -> None:
        """Show how far the running step is."""
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total)

    def finish(self, step: "Step") -> None:  # noqa: ARG002 # the interface of every watcher
        """Show that the running step is over."""
        assert self._task is not None
        self._progress.update(self._task, completed=1, total=1)


def print_report(report: "Report") -> None:
    """The essence of a report: what was proven, what it took, where it is."""
    print_comparisons(report.comparisons)
    console = _console()
    for graph in report.graphs:
        if graph.rescaling:
            print_rescaling(graph.rescaling, f"{graph.path}: " if len(report.graphs) > 1 else "")
    seconds = ", ".join(f"{step.name} {step.seconds:.1f} s" for step in report.steps)
    size = sum(report.sizes.values())
    console.print(f"{report.destination}: {size / 1e6:,.1f} MB, {seconds}", soft_wrap=True)


def print_rescaling(rescaling: "Rescaling", label: str) -> None:
    """How far a lower-precision graph is from overflow."""
    console = _console()
    scaled = f"scaled by 2^-{rescaling.shift}" if rescaling.shift else "not scaled"
    console.print(
        f"{label}residual stream up to {rescaling.residual_peak:.4g}, {scaled}: "
        f"{rescaling.headroom:.0f} times below the limit of fp16"
    )
    for name, reach in rescaling.kept_float.items():
        console.print(f"kept in fp32: {name}, whose values reach {reach:.4g}")


def print_comparisons(comparisons: Sequence["Comparison"]) -> None:
    """The validation table."""
    table = Table("output", "by", "cases", "largest difference", "argmax agreement")
    for row in comparisons:
        agreement = "" if row.agreement is None else f"{row.agreement:.2%} of {row.decisions:,}"
        agreement += f", {row.ties} tie{'s' if row.ties > 1 else ''}" if row.ties else ""
        table.add_row(row.output, row.method, str(row.cases), f"{row.difference:.2e}", agreement)
    _console().print(table)


def to_json(answers: Any) -> str:
    """Answers as JSON; arrays, as feature-extraction gives them, are nested lists."""
    return json.dumps(answers, indent=2, ensure_ascii=False, default=lambda array: array.tolist())


def print_answers(items: Sequence[Any], answers: Sequence[Any]) -> None:
    """One table for each item; answers that are no rows are printed as JSON."""
    console = _console()
    for item, answer in zip(items, answers, strict=True):
        console.print(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False), style="bold")
        rows = answer if isinstance(answer, list) else [answer]
        if not rows or not all(isinstance(row, dict) for row in rows):
            console.print_json(to_json(answer))
            continue
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        console.print(table)


def print_streams(generator: "Generator", texts: Sequence[str], options: Mapping[str, Any]) -> None:
    """Each text and what is generated for it, as it comes and as it is."""
    for text in texts:
        pieces = generator.stream(text, **options)
        if options.get("return_full_text") is not False:
            click.secho(text, bold=True, nl=not generator.continues_prompts)
        for piece in pieces:
            click.echo(piece, nl=False)
        click.echo()


def print_inspection(inspection: "Inspection") -> None:
    """The bundle's manifest in brief, and the operators of its graphs."""
    console = _console()
    manifest = inspection.manifest
    console.print(
        f"{manifest.task}, {manifest.precision} ({manifest.recipe}) for {manifest.target}, "
        f"from {manifest.source.name}; up to {manifest.usable_length} tokens"
    )
    for graph, operators in zip(manifest.graphs, inspection.operators, strict=True):
        table = Table("", "name", "type", "shape", title=f"{graph.path} ({graph.variant}, opset {graph.opset})")
        for side, tensors in (("in", graph.inputs), ("out", graph.outputs)):
            for tensor in tensors:
                table.add_row(side, tensor.name, tensor.dtype, str(list(tensor.shape)))
        console.print(table)
        console.print(", ".join(f"{operator} {count}" for operator, count in operators.items()))
    files = Table("file", "bytes", "SHA-256")
    for file in manifest.files:
        files.add_row(file.path, f"{file.size:,}", file.sha256[:12])
    console.print(files)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _console() -> Console:
    """What is printed are users' texts: nothing in them is markup, an emoji's name or worth a colour."""
    console = Console(markup=False, emoji=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, highlight=False, width=110)
