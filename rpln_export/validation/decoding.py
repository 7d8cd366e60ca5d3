"""Plays the cases of a decoder: step by step on its graphs, as whole histories on eager torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.validation.comparison import Array, eager_outputs
from rpln_graphs.decoding import DecodingCase
from rpln_graphs.feeds import Feeds
from rpln_runtime.tasks import CROSS_KEY_VALUES, ENCODER_MASK, SEQUENCE, Tensor

RunGraph = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Runs one graph on its feeds."""


@dataclass(slots=True, kw_only=True)
class DecodingRunner:
    """Runs cases on a bundle's graphs in the order of their scripts, and keeps the cache from one to the next.

    `prompt` is the decoder's graph for a script's first case, `step` the one for the others; `encoder` makes what
    cross-attention reads. A graph without a cache is given whole histories.
    """

    prompt: PlannedGraph
    step: PlannedGraph
    encoder: PlannedGraph | None
    runs: Mapping[str, RunGraph]
    _past: Feeds = field(default_factory=dict)
    _memory: Feeds = field(default_factory=dict)

    def __call__(self, case: DecodingCase) -> Mapping[str, Array]:
        """The outputs of the case's new tokens."""
        if case.rows is None:
            planned = self.prompt
            self._past = planned.empty_past(len(case.mask))
            self._memory = encoded(case, self.encoder, self.runs)
        else:
            planned = self.step
            self._past = {name: array[case.rows] for name, array in self._past.items()}
            self._memory = {name: array[case.rows] for name, array in self._memory.items()}
        feeds = {**(case.feeds if planned.plan.variant.cache else case.history), **self._past, **self._memory}
        found = self.runs[planned.name]({name: feeds[name] for name in planned.call.input_names})
        self._past = {
            name.replace("present", "past_key_values", 1): array
            for name, array in found.items()
            if name.startswith("present.")
        }
        return newest(found, planned, case)


def play_eager(case: DecodingCase, decoder: PlannedGraph, encoder: PlannedGraph | None) -> Mapping[str, Array]:
    """What eager torch, without a cache, makes of the case's new tokens."""
    runs = {} if encoder is None else {encoder.name: eager_run(encoder)}
    inputs = [*decoder.own_inputs, *([] if encoder is None else [ENCODER_MASK, CROSS_KEY_VALUES])]
    feeds = {**case.history, **encoded(case, encoder, runs)}
    return newest(eager_outputs(decoder.call.model, inputs, decoder.compared, feeds), decoder, case)


def eager_run(planned: PlannedGraph) -> RunGraph:
    """Runs eager torch as if it was the part's graph."""
    return lambda feeds: eager_outputs(planned.call.model, planned.plan.inputs, planned.plan.outputs, feeds)


def whole_feeds(
    case: DecodingCase, planned: PlannedGraph, encoder: PlannedGraph | None, runs: Mapping[str, RunGraph]
) -> Feeds:
    """The case's history as one prompt, for a graph of any variant."""
    feeds = {**case.history, **planned.empty_past(len(case.mask)), **encoded(case, encoder, runs)}
    return {name: feeds[name] for name in planned.call.input_names}


def encoded(case: DecodingCase, encoder: PlannedGraph | None, runs: Mapping[str, RunGraph]) -> Feeds:
    """What the decoder's graphs are fed of the encoder's side."""
    if encoder is None:
        return {}
    found = runs[encoder.name]({name: case.memory[name] for name in encoder.call.input_names})
    made = {name: array for name, array in found.items() if name.startswith(CROSS_KEY_VALUES.name)}
    return {ENCODER_MASK.name: case.memory["attention_mask"], **made}


def newest(found: Mapping[str, Array], planned: PlannedGraph, case: DecodingCase) -> dict[str, Array]:
    """Of the outputs that are compared, the rows of the case's new tokens: a graph without a cache gives all."""
    tokens = case.mask.shape[1]
    return {
        name: _last(found[name], tensor, tokens)
        for tensor in planned.compared
        for name in tensor.names(planned.call.layers)
    }


def _last(array: Array, tensor: Tensor, tokens: int) -> Array:
    if SEQUENCE not in tensor.axes:
        return array
    axis = tensor.axes.index(SEQUENCE)
    return np.take(array, range(array.shape[axis] - tokens, array.shape[axis]), axis=axis)
