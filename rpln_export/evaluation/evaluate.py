"""The metrics of a runner on examples, and how far two runners agree on them."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpln_export.errors import ValidationError
from rpln_export.evaluation.examples import Examples
from rpln_export.evaluation.measures.base import Example
from rpln_export.evaluation.rows import Outputs, Row, run_rows
from rpln_export.evaluation.runners import Runner
from rpln_graphs.tolerances import Distance
from rpln_runtime.tasks import Task

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many decisions two networks make on the same examples, and how many of them are equal."""

    decisions: int
    equal: int

    @property
    def share(self) -> float | None:
        """The share of equal decisions; None where nothing is decided."""
        return self.equal / self.decisions if self.decisions else None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputComparison:
    """The outputs of two networks for the same rows, compared.

    Attributes:
        distance: the largest and the root mean square difference, over all values of all outputs.
        agreement: how many argmaxes are equal, along the axis that an answer of the task takes the largest value of.
    """

    distance: Distance
    agreement: Agreement


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


def agreement(one: Evaluation, other: Evaluation) -> Agreement:
    """Return how many decisions are equal in two evaluations of the same examples."""
    pairs = [
        pair
        for first, second in zip(one.decisions, other.decisions, strict=True)
        for pair in zip(first, second, strict=True)
    ]
    return Agreement(decisions=len(pairs), equal=sum(first == second for first, second in pairs))


def compare_outputs(task: Task, one: FinishedRows, other: FinishedRows) -> OutputComparison:
    """Return how far the outputs of two runs of `task` are apart, which needs no right answers.

    Both have the same rows in the same order, so that no more than a batch of each is in memory. There are no values of
    padding among them. A choice of several is no argmax here, since each choice is a row by itself.
    """
    axes = {tensor.name: tensor.decides_along for tensor in (*task.outputs, *task.outputs_instead)}
    squares, largest = 0.0, 0.0
    values = decisions = equal = 0
    for (place, first), (other_place, second) in zip(one, other, strict=True):
        assert place == other_place
        for name, array in first.items():
            difference = np.abs(array.astype(np.float64) - second[name])
            squares += float(np.square(difference).sum())
            values += difference.size
            largest = float(np.maximum(largest, difference.max(initial=0.0)))  # NaN remains NaN
            axis = axes[name]
            if axis is not None and array.shape[axis := axis - (axis > 0)] > 1:  # a row has no axis of the batch
                same = array.argmax(axis) == second[name].argmax(axis)
                decisions, equal = decisions + same.size, equal + int(same.sum())
    return OutputComparison(
        distance=Distance(rms=float(np.sqrt(squares / values)) if values else 0.0, largest=largest),
        agreement=Agreement(decisions=decisions, equal=equal),
    )


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
