"""How a decoder's cases are run: step by step on its graphs, and as whole histories in eager torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.validation.comparison import Array, eager_outputs
from rpln_graphs.decoding import DecodingCase
from rpln_graphs.feeds import Feeds
from rpln_runtime.tasks import CROSS_KEY_VALUES, ENCODER_MASK, SEQUENCE, Tensor

RunGraph = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""A function that runs one graph: it takes the inputs and returns the outputs, by name."""


@dataclass(slots=True, kw_only=True)
class DecodingRunner:
    """A runner of a decoder's cases, in the order of their scripts. It keeps the cache from one case to the next.

    Attributes:
        prompt: the decoder's graph for the first case of a script.
        step: the decoder's graph for the cases after it. A graph without a cache gets the whole history each time.
        encoder: the graph that computes what cross-attention reads; None where there is none.
        runs: what runs each graph, by the name of its variant.
    """

    prompt: PlannedGraph
    step: PlannedGraph
    encoder: PlannedGraph | None
    runs: Mapping[str, RunGraph]
    _past: Feeds = field(default_factory=dict)
    _memory: Feeds = field(default_factory=dict)

    def __call__(self, case: DecodingCase) -> Mapping[str, Array]:
        """Run the case's graph, keep the cache that it returns, and return the outputs for the case's new tokens."""
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


def eager_decoder_outputs(
    case: DecodingCase, decoder: PlannedGraph, encoder: PlannedGraph | None, *, exact: bool = False
) -> Mapping[str, Array]:
    """Return what eager torch computes, without a cache, for the case's new tokens; in fp64 with `exact`."""
    runs = {} if encoder is None else {encoder.name: eager_run(encoder, exact=exact)}
    inputs = [*decoder.own_inputs, *([] if encoder is None else [ENCODER_MASK, CROSS_KEY_VALUES])]
    feeds = {**case.history, **encoded(case, encoder, runs)}
    return newest(eager_outputs(decoder.call.model, inputs, decoder.compared, feeds, exact=exact), decoder, case)


def eager_run(planned: PlannedGraph, *, exact: bool = False) -> RunGraph:
    """Return a function that computes a graph's outputs in eager torch; in fp64 with `exact`."""
    return lambda feeds: eager_outputs(
        planned.call.model, planned.plan.inputs, planned.plan.outputs, feeds, exact=exact
    )


def history_feeds(
    case: DecodingCase, planned: PlannedGraph, encoder: PlannedGraph | None, runs: Mapping[str, RunGraph]
) -> Feeds:
    """Return the case's history as the inputs of one prompt, for a graph of any variant."""
    feeds = {**case.history, **planned.empty_past(len(case.mask)), **encoded(case, encoder, runs)}
    return {name: feeds[name] for name in planned.call.input_names}


def encoded(case: DecodingCase, encoder: PlannedGraph | None, runs: Mapping[str, RunGraph]) -> Feeds:
    """Return what a decoder reads of its encoder: keys, values and mask; nothing if there is no encoder."""
    if encoder is None:
        return {}
    found = runs[encoder.name]({name: case.memory[name] for name in encoder.call.input_names})
    made = {name: array for name, array in found.items() if name.startswith(CROSS_KEY_VALUES.name)}
    return {ENCODER_MASK.name: case.memory["attention_mask"], **made}


def newest(found: Mapping[str, Array], planned: PlannedGraph, case: DecodingCase) -> dict[str, Array]:
    """Return the compared outputs for the case's new tokens.

    A graph without a cache gives them for the whole history, of which the new tokens are the last.
    """
    tokens = case.mask.shape[1]
    return {
        name: _last(found[name], tensor, tokens)
        for tensor in planned.compared
        for name in tensor.names(planned.call.layers)
    }


def _last(array: Array, tensor: Tensor, tokens: int) -> Array:
    """Return `array` at the last `tokens` tokens, or as it is if it has no axis of tokens."""
    if SEQUENCE not in tensor.axes:
        return array
    axis = tensor.axes.index(SEQUENCE)
    return np.take(array, range(array.shape[axis] - tokens, array.shape[axis]), axis=axis)
