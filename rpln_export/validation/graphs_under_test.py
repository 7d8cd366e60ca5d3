"""What is proven in one go: a single graph case by case, or a decoder's graphs played together."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.feeds.texts import feeds_from_ids
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.validation.comparison import Array, Run, eager_outputs
from rpln_export.validation.decoding import DecodingRunner, RunGraph, play_eager, whole_feeds
from rpln_graphs.decoding import DecodingCase, decoding_cases
from rpln_graphs.feeds import Feeds
from rpln_graphs.stress import Case, stress_cases
from rpln_runtime.tasks import ALL_LOGITS, LOGITS_AT_POSITIONS, MASKED_LOGITS, MASKED_POSITIONS


class GraphUnderTest(Protocol):
    """Graphs that together make the outputs of a case, and eager torch that makes the same."""

    @property
    def cases(self) -> Sequence[Any]:
        """What is compared."""

    @property
    def name(self) -> str:
        """The variants that are run."""

    @property
    def planned_graphs(self) -> tuple[PlannedGraph, ...]:
        """The graphs, in the order of their use; the outputs compared are those of the last."""

    def eager(self, case: Any) -> Mapping[str, Array]:
        """The outputs by eager torch."""

    def runner(self, runs: Mapping[str, RunGraph]) -> Run:
        """What makes the outputs of cases in their order, given how each graph is run."""

    def full_feeds(self, case: Any, planned: PlannedGraph, runs: Mapping[str, RunGraph]) -> Feeds:
        """All tokens of the case at once, for one of the graphs; `runs` runs the graphs before it."""

    def token_mask(self, case: Any) -> Array:
        """The mask of these tokens."""

    def case_from_ids(self, ids: NDArray[np.int64]) -> Any:
        """A case of one text, given whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleGraphUnderTest:
    """One graph."""

    planned: PlannedGraph
    cases: Sequence[Case]

    @property
    def name(self) -> str:
        """The variant."""
        return self.planned.name

    @property
    def planned_graphs(self) -> tuple[PlannedGraph, ...]:
        """The graph."""
        return (self.planned,)

    def eager(self, case: Case) -> Mapping[str, Array]:
        """The case's feeds through the torch module of the graph; of a masked LM, always the logits of all tokens."""
        inputs = [tensor for tensor in self.planned.plan.inputs if tensor != MASKED_POSITIONS]
        some = {MASKED_LOGITS, LOGITS_AT_POSITIONS}
        outputs = [ALL_LOGITS if tensor in some else tensor for tensor in self.planned.compared]
        found = eager_outputs(self.planned.call.model, inputs, outputs, case.feeds)
        return {
            name: case.selected(found[name], tensor.axes)
            for tensor in self.planned.compared
            for name in tensor.names(self.planned.call.layers)
        }

    def runner(self, runs: Mapping[str, RunGraph]) -> Run:
        """The case's feeds through the graph."""
        run = runs[self.planned.name]
        return lambda case: run(case.feeds)

    def full_feeds(self, case: Case, planned: PlannedGraph, runs: Mapping[str, RunGraph]) -> Feeds:  # noqa: ARG002 # the protocol's
        """The case's feeds."""
        return case.feeds

    def token_mask(self, case: Case) -> Array:
        """The case's mask."""
        return case.mask

    def case_from_ids(self, ids: NDArray[np.int64]) -> Case:
        """A batch of one row."""
        feeds = feeds_from_ids(ids, self.planned.plan.inputs, self.planned.call)
        return Case(name="text", feeds=feeds, mask=np.ones((1, ids.size), dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderUnderTest:
    """A decoder's graph of prompts, that of its steps, and the encoder's where there is one."""

    encoder: PlannedGraph | None
    prompt: PlannedGraph
    step: PlannedGraph
    cases: Sequence[DecodingCase]

    @property
    def name(self) -> str:
        """The variants."""
        return " + ".join(planned.name for planned in self.planned_graphs)

    @property
    def planned_graphs(self) -> tuple[PlannedGraph, ...]:
        """The encoder's graph, that of the prompt, and that of the steps where it is another."""
        return tuple(
            dict.fromkeys(planned for planned in (self.encoder, self.prompt, self.step) if planned is not None)
        )

    def eager(self, case: DecodingCase) -> Mapping[str, Array]:
        """The newest tokens of the case's history, without a cache."""
        return play_eager(case, self.step, self.encoder)

    def runner(self, runs: Mapping[str, RunGraph]) -> Run:
        """A player with an empty cache."""
        player = DecodingRunner(prompt=self.prompt, step=self.step, encoder=self.encoder, runs=runs)
        return lambda case: player(cast(DecodingCase, case))

    def full_feeds(self, case: DecodingCase, planned: PlannedGraph, runs: Mapping[str, RunGraph]) -> Feeds:
        """The history as one prompt, or the encoder's side of it."""
        if planned is self.encoder:
            return {name: case.memory[name] for name in planned.call.input_names}
        return whole_feeds(case, planned, self.encoder, runs)

    def token_mask(self, case: DecodingCase) -> Array:
        """The mask of the history."""
        mask: Array = case.history["attention_mask"]
        return mask

    def case_from_ids(self, ids: NDArray[np.int64]) -> DecodingCase:
        """A prompt, which is the encoder's text too."""
        mask = np.ones((1, ids.size), dtype=np.int64)
        feeds = feeds_from_ids(ids, self.step.own_inputs, self.step.call)
        memory = {} if self.encoder is None else feeds_from_ids(ids, self.encoder.plan.inputs, self.encoder.call)
        return DecodingCase(
            name="text", feeds=feeds, mask=mask, rows=None, history=feeds, memory={"attention_mask": mask, **memory}
        )


def graphs_under_test_from_plan(planned_graphs: Sequence[PlannedGraph], plan: ExportPlan) -> list[GraphUnderTest]:
    """Everything that a bundle of these graphs must be proven to do."""
    if not plan.decodes:
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
    """The stress set, with mask tokens where the graph looks for them."""
    return stress_cases(planned.plan.inputs, replace(plan.limits, mask_token_id=planned.mask_token_id))


def _decoding_cases(
    decoders: Iterable[PlannedGraph], encoder: PlannedGraph | None, plan: ExportPlan
) -> Iterator[DecodingCase]:
    """Cases that hold what any of the decoder's graphs takes."""
    inputs = {tensor.name: tensor for planned in decoders for tensor in planned.own_inputs}
    memory = [] if encoder is None else encoder.plan.inputs
    return decoding_cases(list(inputs.values()), plan.limits, memory=memory, memory_limits=plan.memory_limits)
