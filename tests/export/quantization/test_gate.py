"""The gate: blocks that cost too much go back to fp32, the worst first, and no more of them than needed."""

from types import SimpleNamespace
from typing import Any

import pytest

from rpln_export.quantization.fidelity import Fidelity
from rpln_export.quantization.gate import EMBEDDINGS_ALONE, MOST_KEPT, Gate, Passage, pass_gate
from rpln_graphs.forms import INT8_FORMS, Form, forms_with_embeddings
from rpln_graphs.quantization.quantizers import Quantizer
from rpln_graphs.rewriting.base import Context
from tests.graphs.networks import Network, trace_task

BLOCKS = [f"encoder.layer.{layer}.{part}" for layer in range(4) for part in ("attention", "feed_forward")]
CONTEXT = Context(quantizers={"x": Quantizer(scale=1.0, zero_point=0)})
GATE = Gate(agreement=0.99)
FORM = INT8_FORMS["static"]


@pytest.fixture(scope="module")
def network() -> Network:
    return trace_task("token-classification", num_hidden_layers=4)


class FakeTrial:
    """A trial of a graph whose blocks each turn some of 1,000 decisions when they are quantized."""

    def __init__(self, network: Network, **turned: int) -> None:
        self.graphs = [SimpleNamespace(model=network.graph)]
        self.turned = {name.replace("__", "."): number for name, number in turned.items()}
        self.contexts: list[Context] = []

    def fidelity(self, form: Form, context: Context, *, with_metric: bool = True) -> Fidelity:
        assert form is FORM
        self.contexts.append(context)
        wrong = sum(number for block, number in self.turned.items() if block not in context.kept)
        return Fidelity(rms=wrong / 1000, largest=0.1, decisions=1000, agreeing=1000 - min(wrong, 1000))


def passage(trial: Any, gate: Gate = GATE) -> tuple[Passage, int]:
    """Return how the form passes, and how often progress was told of."""
    told: list[None] = []
    first = trial.fidelity(FORM, CONTEXT)
    found = pass_gate(gate, trial, FORM, CONTEXT, first, advance=lambda: told.append(None))
    return found, len(told)


def test_a_graph_that_is_accurate_passes_at_once(network: Network) -> None:
    trial = FakeTrial(network, encoder__layer__1__attention=10)
    found, told = passage(trial)

    assert (found.holds, found.context, found.costs, told) == (True, CONTEXT, {}, 0)
    assert [point.kept for point in found.curve] == [()]
    assert len(trial.contexts) == 1


def test_one_block_that_costs_all_goes_back_to_fp32(network: Network) -> None:
    trial = FakeTrial(network, encoder__layer__2__feed_forward=400, encoder__layer__0__attention=9)
    found, told = passage(trial)

    assert found.holds
    assert found.context.kept == {"encoder.layer.2.feed_forward"}
    assert found.context.quantizers == CONTEXT.quantizers
    assert [(len(point.kept), point.fidelity.agreement) for point in found.curve] == [(0, 0.591), (1, 0.991)]
    assert found.costs == {block: trial.turned.get(block, 0) / 1000 for block in BLOCKS}
    assert told == len(BLOCKS) + 1


def test_the_worst_blocks_go_first_and_no_more_than_needed(network: Network) -> None:
    costs = {f"encoder__layer__{layer}__attention": 20 + layer for layer in range(4)}
    found, _ = passage(FakeTrial(network, **costs))

    assert [point.kept for point in found.curve[1:]] == [
        tuple(f"encoder.layer.{layer}.attention" for layer in range(3, most, -1)) for most in (2, 1, 0, -1)
    ]
    assert found.holds


def test_a_gate_that_cannot_be_met_is_given_up_before_all_blocks_are_in_fp32(network: Network) -> None:
    found, _ = passage(FakeTrial(network, **{block.replace(".", "__"): 100 for block in BLOCKS}))

    assert not found.holds
    assert len(found.context.kept) == MOST_KEPT * len(BLOCKS)


def test_a_metric_that_drops_too_far_does_not_pass() -> None:
    gate = Gate(agreement=0.99, drop=0.3)

    def fidelity(drop: float | None, agreeing: int = 100) -> Fidelity:
        return Fidelity(rms=0.01, largest=0.1, decisions=100, agreeing=agreeing, drop=drop)

    assert [gate.holds(fidelity(drop)) for drop in (-1.0, 0.3, 0.31, float("nan"))] == [True, True, False, False]
    assert not gate.holds(fidelity(0.0, agreeing=98))
    assert Gate(agreement=0.99).holds(fidelity(50.0))
    assert not Gate(agreement=0.99).holds(fidelity(float("inf")))  # outputs that are not finite
    assert str(gate).endswith("equal to those in fp32, and the metric at most 0.3 points worse")


def test_where_nothing_is_decided_every_graph_passes() -> None:
    vectors = Fidelity(rms=0.5, largest=0.9, decisions=0, agreeing=0)

    assert Gate(agreement=1.0).holds(vectors)
    assert not Gate(agreement=1.0).holds(Fidelity(rms=0.0, largest=0.0, decisions=1000, agreeing=999))
    assert Gate(agreement=0.999).holds(Fidelity(rms=0.0, largest=0.0, decisions=1000, agreeing=999))


def test_embeddings_that_are_too_far_off_are_given_up_at_once(network: Network) -> None:
    class WithoutBlocks(FakeTrial):
        def fidelity(self, form: Form, context: Context, *, with_metric: bool = True) -> Fidelity:
            self.contexts.append(context)
            return Fidelity(rms=0.1, largest=0.1, decisions=1000, agreeing=980)

    trial: Any = WithoutBlocks(network)
    (form,) = forms_with_embeddings({FORM.name: FORM}).values()
    first = trial.fidelity(form, CONTEXT)
    found = pass_gate(GATE, trial, form, CONTEXT, first, advance=lambda: None)

    assert (found.holds, found.because, len(found.curve)) == (False, EMBEDDINGS_ALONE, 1)
    assert [context.kept for context in trial.contexts] == [frozenset(), frozenset(BLOCKS)]
