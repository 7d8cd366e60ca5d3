"""The metrics of an evaluation, as a table and as JSON."""

from typing import TYPE_CHECKING, Any

from rpln_export.commands.show.console import make_console, make_table

if TYPE_CHECKING:
    from rpln_export.evaluation.evaluate import Evaluation
    from rpln_export.evaluation.examples import Examples
    from rpln_export.evaluation.runners import Runner


def print_evaluation(name: str, runner: "Runner", examples: "Examples", evaluation: "Evaluation") -> None:
    """Print what was measured, and a table of the metrics. `name` is that of the bundle or checkpoint."""
    console = make_console()
    console.print(
        f"{name}: {runner.manifest.task}, {runner.manifest.recipe}, on {runner.provider}, "
        f"{evaluation.examples:,} example{'s' if evaluation.examples > 1 else ''}",
        soft_wrap=True,
    )
    table = make_table("metric", "value")
    for metric in examples.measure.metrics:
        value = evaluation.metrics[metric.name]
        table.add_row(metric.name, f"{value:.2%}" if metric.is_share else f"{value:.4f}")
    console.print(table)


def evaluation_to_json(runner: "Runner", evaluation: "Evaluation") -> dict[str, Any]:
    """Return what was measured and its metrics. Shares are from 0 to 1."""
    return {
        "task": runner.manifest.task,
        "precision": runner.manifest.recipe,
        "provider": runner.provider,
        "examples": evaluation.examples,
        "metrics": dict(evaluation.metrics),
    }
