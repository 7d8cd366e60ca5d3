"""The task's metric of quantized graphs, on the user's evaluation data."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rpln_export.checkpoint.loading import Checkpoint
from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.errors import ValidationError
from rpln_export.evaluation.evaluate import evaluate
from rpln_export.evaluation.examples import read_examples
from rpln_export.evaluation.runners import TORCH, manifest_from_planned, runner_from_functions
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.validation.decoding import RunGraph, eager_run
from rpln_runtime.session import DEFAULT_PROVIDER
from rpln_runtime.tokenization import Tokenizer

POINTS: Final = 100.0
"""The points of a metric that is a share. What is no share drops by a point where it gets worse by one per cent."""


class EvaluationData:
    """Examples with right answers, on which networks and their quantized graphs are measured.

    Attributes:
        path: the file of the examples.
        metric: the name of the task's main metric.
        before: its value in fp32, by eager torch.
    """

    def __init__(self, path: Path, plan: ExportPlan, checkpoint: Checkpoint, graphs: list[PlannedGraph]) -> None:
        """Read the examples in `path`; texts that are too long are cut, for both networks alike.

        Raises InputError, which names the line, for examples that do not fit the task.
        """
        # The runtime switches padding and truncation off in the tokenizer that it is given.
        self._tokenizer = Tokenizer(copy.deepcopy(checkpoint.tokenizer.backend_tokenizer))
        self._manifest = manifest_from_planned(plan, checkpoint, graphs)
        self._examples = read_examples(path, self._manifest, self._tokenizer, truncation=True)
        self._metric = self._examples.measure.metrics[0]
        self.path = path
        self.metric: str = self._metric.name
        self.before = self._value({graph.name: eager_run(graph) for graph in graphs}, TORCH)

    def drop(self, runs: Mapping[str, RunGraph]) -> float:
        """Return by how many points the metric is worse than in fp32; less than 0 where it is better.

        Outputs that are not finite have no metric; it is then worse by infinity.
        """
        try:
            after = self._value(runs, DEFAULT_PROVIDER)
        except ValidationError:
            return math.inf
        worse = self.before - after if self._metric.higher_is_better else after - self.before
        return POINTS * worse / (1.0 if self._metric.is_share else abs(self.before))

    def _value(self, runs: Mapping[str, RunGraph], provider: str) -> float:
        runner = runner_from_functions(self._manifest, self._tokenizer, runs, provider=provider)
        return evaluate(runner, self._examples).metrics[self.metric]
