"""Graphs that are proven together: a single graph, case by case, or a decoder's graphs, step by step."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.feeds.texts import feeds_from_choices, feeds_from_ids
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.validation.comparison import Array, Run, eager_outputs
from rpln_export.validation.decoding import DecodingRunner, RunGraph, eager_decoder_outputs, history_feeds
from rpln_graphs.decoding import DecodingCase, decoding_cases
from rpln_graphs.feeds import Feeds
from rpln_graphs.stress import Case, stress_cases
from rpln_model.config import padding_row
from rpln_runtime.tasks import ALL_LOGITS, LOGITS_AT_POSITIONS, MASKED_LOGITS, MASKED_POSITIONS


class GraphUnderTest(Protocol):
    """Graphs that together compute the outputs of a case, beside eager torch, which computes the same."""

    @property
    def cases(self) -> Sequence[Any]:
        """The cases that are compared."""

    @property
    def name(self) -> str:
        """The names of the variants that are run."""

    @property
    def planned_graphs(self) -> tuple[PlannedGraph, ...]:
        """The graphs in the order of their use; the outputs of the last one are compared."""

    def eager(self, case: Any, *, exact: bool = False) -> Mapping[str, Array]:
        """Return the outputs of a case by eager torch, in fp32, or with `exact` in fp64."""

    def runner(self, runs: Mapping[str, RunGraph]) -> Run:
        """Return a function that takes the cases in their order and returns the outputs by the graphs in `runs`."""

    def full_feeds(self, case: Any, planned: PlannedGraph, runs: Mapping[str, RunGraph]) -> Feeds:
        """Return the inputs of one graph for all tokens of a case at once; `runs` runs the graphs before it."""

    def token_mask(self, case: Any) -> Array:
        """Return the mask of these tokens: 1 at real tokens, 0 at padding."""

    def case_from_ids(self, ids: NDArray[np.int64]) -> Any:
        """Return a case that consists of one text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleGraphUnderTest:
    """A graph that is run by itself."""

    planned: PlannedGraph
    cases: Sequence[Case]

    @property
    def name(self) -> str:
        """The name of the graph's variant."""
        return self.planned.name

    @property
    def planned_graphs(self) -> tuple[PlannedGraph, ...]:
        """The graph, as the only one."""
        return (self.planned,)

    def eager(self, case: Case, *, exact: bool = False) -> Mapping[str, Array]:
        """Return the outputs of the case by eager torch.

        Logits at masks are picked from the logits of all tokens, so that the graph's selection is proven too.
        """
        inputs = [tensor for tensor in self.planned.plan.inputs if tensor != MASKED_POSITIONS]
        some = {MASKED_LOGITS, LOGITS_AT_POSITIONS}
        outputs = [ALL_LOGITS if tensor in some else tensor for tensor in self.planned.compared]
        found = eager_outputs(self.planned.call.model, inputs, outputs, case.feeds, exact=exact)
        return {
            name: case.selected(found[name], tensor.axes)
            for tensor in self.planned.compared
            for name in tensor.names(self.planned.call.layers)
        }

    def runner(self, runs: Mapping[str, RunGraph]) -> Run:
        """Return a function that runs the graph on a case."""
        run = runs[self.planned.name]
        return lambda case: run(case.feeds)

    def full_feeds(self, case: Case, planned: PlannedGraph, runs: Mapping[str, RunGraph]) -> Feeds:  # noqa: ARG002 # the protocol has it
        """Return the case's inputs."""
        return case.feeds

    def token_mask(self, case: Case) -> Array:
        """Return the case's mask."""
        return case.mask

    def case_from_ids(self, ids: NDArray[np.int64]) -> Case:
        """Return a case of one row."""
        feeds = feeds_from_ids(ids, self.planned.plan.inputs, self.planned.call)
        return Case(name="text", feeds=feeds, mask=np.ones((1, ids.size), dtype=np.int64))

    def case_from_choices(self, rows: Sequence[NDArray[np.int64]]) -> Case:
        """Return a case of one question, whose choices are padded on the right."""
        call = self.planned.call
        lengths = np.array([row.size for row in rows])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.full(mask.shape, padding_row(call.model.config), dtype=np.int64)
        ids[mask == 1] = np.concatenate(rows)
        return Case(name="question", feeds=feeds_from_choices(ids, mask, self.planned.plan.inputs, call), mask=mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderUnderTest:
    """A decoder whose graphs are run together.

    Attributes:
        encoder: the graph that runs once, before the decoder's steps; None where there is none.
        prompt: the decoder's graph for prompts.
        step: the decoder's graph for the steps after a prompt; it may be the same.
        cases: prompts, each followed by its steps.
    """

    encoder: PlannedGraph | None
    prompt: PlannedGraph
    step: PlannedGraph
    cases: Sequence[DecodingCase]

    @property
    def name(self) -> str:
        """The names of the variants that are run, joined by plus signs."""
        return " + ".join(planned.name for planned in self.planned_graphs)

    @property
    def planned_graphs(self) -> tuple[PlannedGraph, ...]:
        """The encoder's graph, that of prompts, and that of steps where it is another one."""
        return tuple(
            dict.fromkeys(planned for planned in (self.encoder, self.prompt, self.step) if planned is not None)
        )

    def eager(self, case: DecodingCase, *, exact: bool = False) -> Mapping[str, Array]:
        """Return the outputs for the case's new tokens by eager torch, which is given the whole history."""
        return eager_decoder_outputs(case, self.step, self.encoder, exact=exact)

    def runner(self, runs: Mapping[str, RunGraph]) -> Run:
        """Return a runner of cases, which begins with an empty cache."""
        run = DecodingRunner(prompt=self.prompt, step=self.step, encoder=self.encoder, runs=runs)
        return lambda case: run(cast(DecodingCase, case))

    def full_feeds(self, case: DecodingCase, planned: PlannedGraph, runs: Mapping[str, RunGraph]) -> Feeds:
        """Return the history as the inputs of one prompt; for the encoder's graph, the encoder's inputs."""
        if planned is self.encoder:
            return {name: case.memory[name] for name in planned.call.input_names}
        return history_feeds(case, planned, self.encoder, runs)

    def token_mask(self, case: DecodingCase) -> Array:
        """Return the mask of the history."""
        mask: Array = case.history["attention_mask"]
        return mask

    def case_from_ids(self, ids: NDArray[np.int64]) -> DecodingCase:
        """Return a case of one prompt, which the encoder is given too."""
        mask = np.ones((1, ids.size), dtype=np.int64)
        feeds = feeds_from_ids(ids, self.step.own_inputs, self.step.call)
        memory = {} if self.encoder is None else feeds_from_ids(ids, self.encoder.plan.inputs, self.encoder.call)
        return DecodingCase(
            name="text", feeds=feeds, mask=mask, rows=None, history=feeds, memory={"attention_mask": mask, **memory}
        )


def graphs_under_test_from_plan(planned_graphs: Sequence[PlannedGraph], plan: ExportPlan) -> list[GraphUnderTest]:
    """Return everything that must be proven of a bundle of these graphs."""
    if not plan.task.generates:
        return [SingleGraphUnderTest(planned=planned, cases=list(_cases(planned, plan))) for planned in planned_graphs]
    encoder = next((planned for planned in planned_graphs if planned.is_encoder), None)
    decoders = {planned.name: planned for planned in planned_graphs if not planned.is_encoder}
    only_steps = {planned.plan.variant.steps for planned in decoders.values()}
    prompts = [planned for name, planned in decoders.items() if name not in only_steps]
    graphs_under_test: list[GraphUnderTest] = [
        DecoderUnderTest(
            encoder=encoder,
            prompt=planned,
            step=decoders[planned.plan.variant.steps or planned.name],
            cases=list(_decoding_cases(decoders.values(), encoder, plan)),
        )
        for planned in prompts
    ]
    if encoder is not None and encoder.compared:
        assert plan.memory_limits is not None
        cases = list(stress_cases(encoder.plan.inputs, plan.memory_limits))
        graphs_under_test.insert(0, SingleGraphUnderTest(planned=encoder, cases=cases))
    return graphs_under_test


def _cases(planned: PlannedGraph, plan: ExportPlan) -> Iterator[Case]:
    """Return the stress set of one graph, with mask tokens if the graph looks for them."""
    return stress_cases(planned.plan.inputs, replace(plan.limits, mask_token_id=planned.mask_token_id))


def _decoding_cases(
    decoders: Iterable[PlannedGraph], encoder: PlannedGraph | None, plan: ExportPlan
) -> Iterator[DecodingCase]:
    """Return cases that hold the inputs of all of the decoder's graphs."""
    inputs = {tensor.name: tensor for planned in decoders for tensor in planned.own_inputs}
    memory = [] if encoder is None else encoder.plan.inputs
    return decoding_cases(list(inputs.values()), plan.limits, memory=memory, memory_limits=plan.memory_limits)
