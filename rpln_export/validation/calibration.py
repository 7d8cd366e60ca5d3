"""Calibration: the ranges of a graph's values are measured on the cases that prove it and on texts."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rpln_export.checkpoint.planned_graphs import PlannedGraph, TracedGraph
from rpln_export.plan.calibration import CalibrationText, calibration_texts
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.validation.decoding import RunGraph
from rpln_export.validation.graphs_under_test import GraphUnderTest
from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.feeds import Feeds
from rpln_graphs.recipes import Rewrite
from rpln_graphs.rewriting.ranges import Ranges
from rpln_graphs.sessions import run_from_model

_CHOICES: Final = 4
"""How many texts there are to choose from, in a question that is made of calibration texts."""


def rewrites_from_graphs(
    traced: Sequence[TracedGraph], graphs_under_test: Sequence[GraphUnderTest], tokenizer: Any, plan: ExportPlan
) -> list[Rewrite]:
    """Return the `traced` graphs, each with a function that measures the ranges of its values.

    They are measured on the cases of `graphs_under_test` that the graph takes part in, and on the plan's texts,
    tokenized by `tokenizer`.
    """
    encoders = {graph.planned.name: graph.model for graph in traced if graph.planned.is_encoder}
    texts = list(ids_from_texts(tokenizer, plan))

    def measure(planned: PlannedGraph, model: ir.Model) -> Ranges:
        runs = {} if planned.is_encoder else {name: run_from_model(encoder) for name, encoder in encoders.items()}
        return measure_ranges(model, _feeds(planned, graphs_under_test, texts, runs))

    return [
        Rewrite(model=graph.model, traits=graph.planned.traits, measure=partial(measure, graph.planned))
        for graph in traced
    ]


def _feeds(
    planned: PlannedGraph,
    graphs_under_test: Sequence[GraphUnderTest],
    texts: Sequence[NDArray[np.int64]],
    runs: Mapping[str, RunGraph],
) -> Iterator[Feeds]:
    """Yield the inputs of a graph for every case that proves it and for every text; `runs` runs the encoder."""
    for under_test in graphs_under_test:
        if planned in under_test.planned_graphs:
            for case in itertools.chain(under_test.cases, map(under_test.case_from_ids, texts)):
                yield under_test.full_feeds(case, planned, runs)


def ids_from_texts(tokenizer: Any, plan: ExportPlan) -> Iterator[NDArray[np.int64]]:
    """Yield the token ids of the windows of all calibration texts."""
    return itertools.chain.from_iterable(windows_from_texts(tokenizer, plan))


def _choices(text: CalibrationText, others: Sequence[CalibrationText]) -> list[str]:
    """Return texts to choose from after `text`: its own second text, and what the following `others` have."""
    own = [] if text.pair is None else [text.pair]
    return [*own, *(other.text if other.pair is None else other.pair for other in others)][:_CHOICES]


def windows_from_texts(tokenizer: Any, plan: ExportPlan) -> Iterator[list[NDArray[np.int64]]]:
    """Yield the token ids of each of the plan's calibration texts, in windows of what all of its networks take.

    Texts without tokens are left out. Where a task has choices, a text is a question, and its rows are its choices.
    """
    limit = min(limits.usable_length for limits in (plan.limits, plan.memory_limits) if limits is not None)
    texts = calibration_texts(plan.calibration, plan.recipe)
    if plan.task.has_choices:
        for place, text in enumerate(texts):
            choices = _choices(text, [*texts[place + 1 :], *texts[:place]])
            rows = tokenizer([text.text] * len(choices), choices, truncation=True, max_length=limit)["input_ids"]
            yield [np.array(row, dtype=np.int64) for row in rows]
        return
    for text in texts:
        windows = tokenizer(text.text, text.pair, truncation=True, max_length=limit, return_overflowing_tokens=True)
        found = [np.array(window[:limit], dtype=np.int64) for window in windows["input_ids"] if window]
        if found:
            yield found
