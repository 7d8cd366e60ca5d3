"""Bundles and graphs as tables: what they hold, how two of them differ, and what passes changed in a file."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from rpln_export.commands.show.console import make_console, make_table

if TYPE_CHECKING:
    from rpln_export.compare.graphs import GraphComparison, GraphSummary
    from rpln_export.compare.inspection import Inspection
    from rpln_export.compare.optimize_file import FileOptimization
    from rpln_export.compare.values import ValueComparison


def print_inspection(inspection: "Inspection") -> None:
    """Print what the bundle's manifest says, and the operators of its graphs."""
    console = make_console()
    manifest = inspection.manifest
    console.print(
        f"{manifest.task}, {manifest.precision} ({manifest.recipe}) for {manifest.target}, "
        f"from {manifest.source.name}; up to {manifest.usable_length} tokens"
    )
    for graph, operators in zip(manifest.graphs, inspection.operators, strict=True):
        table = make_table("", "name", "type", "shape", title=f"{graph.path} ({graph.variant}, opset {graph.opset})")
        for side, tensors in (("in", graph.inputs), ("out", graph.outputs)):
            for tensor in tensors:
                table.add_row(side, tensor.name, tensor.dtype, str(list(tensor.shape)))
        console.print(table)
        console.print(", ".join(f"{operator} {count}" for operator, count in operators.items()))
    files = make_table("file", "bytes", "SHA-256")
    for file in manifest.files:
        files.add_row(file.path, f"{file.size:,}", file.sha256[:12])
    console.print(files)


def print_graph_comparison(comparison: "GraphComparison") -> None:
    """Print two graphs side by side, the weights in which they differ, and the first value that differs."""
    console = make_console()
    pair = (comparison.first, comparison.second)
    for letter, summary in zip("AB", pair, strict=True):
        console.print(f"{letter}: {summary.path}", soft_wrap=True)
    facts = make_table("", "A", "B")
    for name, fact in _FACTS.items():
        facts.add_row(name, *(fact(summary) for summary in pair))
    console.print(facts)
    operators = make_table("operator", "A", "B", "A, by layer", "B, by layer")
    for name in dict.fromkeys([*pair[0].operators, *pair[1].operators]):
        layers = [summary.operators.get(name, {}) for summary in pair]
        operators.add_row(name, *(str(sum(row.values())) for row in layers), *map(_by_layer, layers))
    console.print(operators)
    weights = comparison.weights
    for title, names in (
        ("only in A", weights.only_first),
        ("only in B", weights.only_second),
        (
            "that differ in type or shape",
            [f"{name} ({one}, {other})" for name, (one, other) in weights.other_form.items()],
        ),
        ("that differ in numbers", weights.other_numbers),
    ):
        if names:
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            console.print(f"initializers {title}, {len(names)}: {', '.join(names[:_MOST_NAMES])}{more}")
    console.print(_values_in_words(comparison.values))


def print_file_optimization(result: "FileOptimization") -> None:
    """Print what each pass changed and refused, and how much the outputs differ from the original's."""
    console = make_console()
    table = make_table("pass", "places", "left alone, because")
    for name, count in result.passes.items():
        reasons = [f"{refusal.node}: {refusal.reason}" for refusal in result.refusals.get(name, [])]
        table.add_row(name, str(count), "\n".join(reasons))
    console.print(table)
    worst = max((output.difference or 0.0 for row in result.comparisons for output in row.outputs), default=0.0)
    console.print(f"{result.path}: the outputs differ from the original's by at most {worst:.2e}", soft_wrap=True)


_MOST_NAMES: Final = 5
"""The most names of weights that are listed."""

_FACTS: Final[Mapping[str, Callable[["GraphSummary"], str]]] = {
    "opset": lambda graph: ", ".join(f"{domain} {version}" for domain, version in graph.opsets.items()),
    "inputs": lambda graph: "\n".join(graph.inputs),
    "outputs": lambda graph: "\n".join(graph.outputs),
    "nodes": lambda graph: str(sum(sum(layers.values()) for layers in graph.operators.values())),
    "initializers": lambda graph: f"{graph.initializers}, {sum(graph.weights.values()):,} bytes",
    "precision": lambda graph: "\n".join(f"{dtype} {size:,} bytes" for dtype, size in graph.weights.items()),
}


def _by_layer(counts: Mapping[str, int]) -> str:
    """Return the counts in words: {"0": 6, "1": 6, "2": 5, "outside": 1} -> "6 each in 0-1, 5 in 2, 1 outside"."""
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
        return "Values are not compared: neither graph lies in a bundle, which would say what it takes. Give --feeds."
    beside = f" {len(values.absorbed)} more differ, but values computed from them agree." if values.absorbed else ""
    beside += (
        f" {values.other_shape} values have different shapes in A and B and are not compared."
        if values.other_shape
        else ""
    )
    named = values.compared - len(values.absorbed)
    if not values.differing:
        return f"All {named} common values agree within {values.bound:g} of their range.{beside}"
    first = values.differing[0]
    size = "a number that is not finite" if first.difference is None else f"{first.difference:.3g}"
    outputs = ", ".join(f"{row.name} {row.difference:.3g}" for row in values.outputs if row.difference is not None)
    in_words = f"The outputs differ by: {outputs}." if outputs else "No outputs were compared."
    return (
        f"{len(values.differing)} of {named} common values differ by more than {values.bound:g} of their range. "
        f"The first is {first.name} {list(first.shape)}: it differs by {size}, and its range is {first.reach:.3g}. "
        f"{in_words}{beside}"
    )
