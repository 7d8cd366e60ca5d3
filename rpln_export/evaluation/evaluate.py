"""The metrics of a runner on examples."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpln_export.errors import ValidationError
from rpln_export.evaluation.examples import Examples
from rpln_export.evaluation.measures.base import Example
from rpln_export.evaluation.rows import Outputs, Row, run_rows
from rpln_export.evaluation.runners import Runner

FinishedRows = Iterable[tuple[int, Outputs]]
"""The place of each row among all rows of the examples, and its outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The metrics of a network on examples.

    Attributes:
        metrics: the value of each metric by its name, the main metric first.
        examples: the number of examples.
        decisions: the decisions in each example, such as the labels of its words; empty where the task decides nothing.
    """

    metrics: Mapping[str, float]
    examples: int
    decisions: Sequence[Sequence[Hashable]]


def evaluate(runner: Runner, examples: Examples, *, advance: Callable[[int, int], None] | None = None) -> Evaluation:
    """Run `runner` on the examples and return its metrics.

    `advance` is called with (done, total) as rows are run. Raises what `run_rows` and `evaluation_from_outputs` raise.
    """
    return evaluation_from_outputs(examples, _counted(run_rows(runner, rows_of(examples)), examples, advance))


def evaluation_from_outputs(examples: Examples, outputs: FinishedRows) -> Evaluation:
    """Return the metrics of whatever computed `outputs`, which has each of `rows_of(examples)` once, in any order.

    Raises ValidationError for NaN and infinite values, and InputError where the examples determine no metric.
    """
    measure, rows = examples.measure, rows_of(examples)
    owners = [number for number, own in enumerate(examples.rows, start=1) for _ in own]
    kept: list[Any] = [None] * len(rows)
    for place, found in outputs:
        _check_finite(found, owners[place])
        kept[place] = measure.read(rows[place], found)
    left = iter(kept)
    predictions = measure.predictions(
        [
            Example(fields=fields, rows=own, kept=[next(left) for _ in own])
            for fields, own in zip(examples.fields, examples.rows, strict=True)
        ]
    )
    scores = measure.scores(examples.fields, predictions)
    return Evaluation(
        metrics={metric.name: scores[metric.name] for metric in measure.metrics},
        examples=len(predictions),
        decisions=[measure.decisions(prediction) for prediction in predictions],
    )


def rows_of(examples: Examples) -> list[Row]:
    """Return the rows of all examples, in order."""
    return [row for rows in examples.rows for row in rows]


def _check_finite(outputs: Outputs, number: int) -> None:
    """Raise ValidationError for outputs that hold NaN or infinity; `number` counts the examples from 1."""
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            raise ValidationError(
                f"{name!r} holds NaN or infinite values for example {number}, so that there is no metric. Look for the "
                "reason in the weights, or choose a precision with a larger range."
            )


def _counted(
    outputs: FinishedRows, examples: Examples, advance: Callable[[int, int], None] | None
) -> Iterator[tuple[int, Outputs]]:
    """Yield `outputs` as they are, and tell `advance` how many there were."""
    total = sum(map(len, examples.rows))
    for done, finished in enumerate(outputs, start=1):
        yield finished
        if advance is not None:
            advance(done, total)
