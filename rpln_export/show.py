"""What a person sees: progress on stderr, nothing where that is no terminal, and tables on stdout."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from rpln_export.foreign import FileOptimization
    from rpln_export.graph_comparison import GraphComparison, GraphSummary
    from rpln_export.inspection import Inspection
    from rpln_export.report import Report, Rescaling
    from rpln_export.steps import Step
    from rpln_export.validate import Comparison
    from rpln_export.value_comparison import ValueComparison
    from rpln_runtime import Generator
    from rpln_runtime.corpus import Progress as CorpusProgress
    from rpln_runtime.engine_manifest import EngineManifest
    from rpln_runtime.manifest import Optimization


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


class CorpusWatcher:
    """Shows how far a run through a corpus is: the bar in bytes of the input, the lines counted. A context manager."""

    def __init__(self, name: str) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._name = name
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, progress: "CorpusProgress", size: int) -> None:
        """Show `progress` in an input of `size` bytes."""
        self._progress.update(
            self._task,
            description=f"{self._name}: {lines_in_words(progress)}",
            completed=progress.read,
            total=max(size, 1),
        )


def lines_in_words(progress: "CorpusProgress") -> str:
    """How many lines a run has answered, and how many it could not answer."""
    return f"{progress.lines:,} lines" + (f", {progress.errors:,} of them errors" if progress.errors else "")


def print_report(report: "Report") -> None:
    """The essence of a report: what was proven, what it took, where it is."""
    print_comparisons(report.comparisons)
    console = _console()
    for graph in report.graphs:
        if graph.rescaling:
            print_rescaling(graph.rescaling, f"{graph.path}: " if len(report.graphs) > 1 else "")
    print_optimization(report.optimization)
    if report.engines.engines:
        print_engines(report.engines.engines)
    console.print(f"engines: {report.engines.note}", soft_wrap=True)
    seconds = ", ".join(f"{step.name} {step.seconds:.1f} s" for step in report.steps)
    size = sum(report.sizes.values())
    console.print(f"{report.destination}: {size / 1e6:,.1f} MB, {seconds}", soft_wrap=True)


def print_optimization(optimization: "Optimization") -> None:
    """The candidates, where any were measured, and what was decided by what."""
    console = _console()
    rows = [row for row in optimization.candidates if row.speedup is not None]
    if rows:
        table = Table("graph", "form", "runs on", "speed", "")
        for row in rows:
            table.add_row(row.variant, row.form, row.provider, f"{row.speedup:.2f}", row.outcome)
        console.print(table)
    console.print(f"target {optimization.target}: {optimization.note}", soft_wrap=True)


def print_engines(engines: "Sequence[EngineManifest]") -> None:
    """What each engine is, for whom, and what it takes, profile by profile."""
    console = _console()
    if not engines:
        console.print("no engines: rpln build FOLDER --engine tensorrt-rtx")
        return
    for engine in engines:
        table = Table("profile", "activations", "fused attentions", title=engine.plan.path, title_justify="left")
        for number, profile in enumerate(engine.profiles):
            table.add_row(
                ", ".join(f"{axis}={sizes}" for axis, sizes in profile.items()),
                f"{engine.activations[number] / 1e6:,.1f} MB",
                str(engine.attentions[number]),
            )
        console.print(table)
        console.print(
            f"{engine.builder} {engine.version} for {', '.join(engine.targets)}: "
            f"{engine.variant} in {engine.precision}, "
            f"{engine.plan.size / 1e6:,.1f} MB, built in {engine.seconds:.1f} s",
            soft_wrap=True,
        )


def print_kernels(engine: "EngineManifest") -> None:
    """The kernels of an engine and what of the graph each computes."""
    table = Table("profile", "kernel", "kind", "takes", "gives", "computes", title=engine.plan.path)
    for layer in engine.layers:
        table.add_row(
            str(layer.profile),
            layer.name,
            layer.kind,
            ", ".join(dict.fromkeys(layer.inputs)),
            ", ".join(dict.fromkeys(layer.outputs)),
            "\n".join(layer.nodes),
        )
    _console().print(table)


def print_file_optimization(result: "FileOptimization") -> None:
    """Every pass with its count and what it refused, and how far the outputs are from what they were."""
    console = _console()
    table = Table("pass", "places", "left alone, because")
    for name, count in result.passes.items():
        reasons = [f"{refusal.node}: {refusal.reason}" for refusal in result.refusals.get(name, [])]
        table.add_row(name, str(count), "\n".join(reasons))
    console.print(table)
    worst = max((output.difference or 0.0 for row in result.comparisons for output in row.outputs), default=0.0)
    console.print(f"{result.path}: outputs differ from before by at most {worst:.2e}", soft_wrap=True)


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


def print_graph_comparison(comparison: "GraphComparison") -> None:
    """Two graphs side by side, what their weights are, and where their values part."""
    console = _console()
    pair = (comparison.first, comparison.second)
    for letter, summary in zip("AB", pair, strict=True):
        console.print(f"{letter}: {summary.path}", soft_wrap=True)
    facts = Table("", "A", "B")
    for name, fact in _FACTS.items():
        facts.add_row(name, *(fact(summary) for summary in pair))
    console.print(facts)
    operators = Table("operator", "A", "B", "A, by layer", "B, by layer")
    for name in dict.fromkeys([*pair[0].operators, *pair[1].operators]):
        layers = [summary.operators.get(name, {}) for summary in pair]
        operators.add_row(name, *(str(sum(row.values())) for row in layers), *map(_by_layer, layers))
    console.print(operators)
    weights = comparison.weights
    for title, names in (
        ("only in A", weights.only_first),
        ("only in B", weights.only_second),
        ("of other type or shape", [f"{name} ({one}, {other})" for name, (one, other) in weights.other_form.items()]),
        ("of other numbers", weights.other_numbers),
    ):
        if names:
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            console.print(f"initializers {title}, {len(names)}: {', '.join(names[:_MOST_NAMES])}{more}")
    console.print(_values_in_words(comparison.values))


_MOST_NAMES: Final = 5

_FACTS: Final[Mapping[str, Callable[["GraphSummary"], str]]] = {
    "opset": lambda graph: ", ".join(f"{domain} {version}" for domain, version in graph.opsets.items()),
    "inputs": lambda graph: "\n".join(graph.inputs),
    "outputs": lambda graph: "\n".join(graph.outputs),
    "nodes": lambda graph: str(sum(sum(layers.values()) for layers in graph.operators.values())),
    "initializers": lambda graph: f"{graph.initializers}, {sum(graph.weights.values()):,} bytes",
    "precision": lambda graph: "\n".join(f"{dtype} {size:,} bytes" for dtype, size in graph.weights.items()),
}


def _by_layer(counts: Mapping[str, int]) -> str:
    """{"0": 6, "1": 6, "2": 5, "outside": 1} -> "6 each in 0-1, 5 in 2, 1 outside"."""
    layers = sorted((int(layer), count) for layer, count in counts.items() if layer.isdecimal())
    runs: list[list[int]] = []  # first layer, last layer, count
    for layer, count in layers:
        if runs and runs[-1][1:] == [layer - 1, count]:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer, count])
    words = [
        f"{count} each in {first}-{last}" if last > first else f"{count} in {first}" for first, last, count in runs
    ]
    words += [f"{count} {place}" for place, count in counts.items() if not place.isdecimal()]
    return ", ".join(words)


def _values_in_words(values: "ValueComparison | None") -> str:
    if values is None:
        return "Values are not compared: neither graph lies in a bundle that says what it is fed. Give --feeds."
    beside = f" {len(values.absorbed)} more differ and are made up for." if values.absorbed else ""
    beside += f" {values.other_shape} have another shape." if values.other_shape else ""
    named = values.compared - len(values.absorbed)
    if not values.differing:
        return f"All {named} common values agree within {values.bound:g} of their range.{beside}"
    first = values.differing[0]
    size = "no finite number" if first.difference is None else f"{first.difference:.3g}"
    outputs = ", ".join(f"{row.name} {row.difference:.3g}" for row in values.outputs if row.difference is not None)
    return (
        f"{len(values.differing)} of {named} common values differ by more than {values.bound:g} of their range. "
        f"The first is {first.name} {list(first.shape)}: by {size}, of range {first.reach:.3g}. "
        f"Outputs differ by: {outputs or 'none was compared'}.{beside}"
    )


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _console() -> Console:
    """What is printed are users' texts: nothing in them is markup, an emoji's name or worth a colour."""
    console = Console(markup=False, emoji=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, highlight=False, width=110)
