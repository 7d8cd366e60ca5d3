"""fp32 accepts sound graphs of every checkpoint in every form, whatever its range, and refuses faults in each.

The factors of the tolerance were chosen on other networks: 15 of them, 256 to 768 wide, as they were traced.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest

from rpln_graphs.forms import FORMS, write_form
from rpln_graphs.recipes import RECIPES
from rpln_graphs.rewriting.traits import HIDDEN_STATES, GraphTraits
from tests.export.sabotage import scaled
from tests.export.validation.noisy_networks import NoisyNetwork
from tests.export.validation.test_structure import epsilon_of_one_norm, scale_of_one_attention
from tests.graphs.networks import copied

TOLERANCE = RECIPES["fp32"].tolerance
TASKS = ("fill-mask", "text-classification", "token-classification", "question-answering")


class Spec(NamedTuple):
    """A network: its task, layers and width, how many times some channels are larger, and the seed of its weights."""

    task: str
    layers: int
    width: int
    outliers: int
    seed: int


QUICK = [Spec(task, 2, 64, outliers, 0) for task, outliers in zip(TASKS, (0, 20, 1000, 100), strict=True)]
GRID = [
    Spec(task, layers, width, outliers, seed)
    for task, (layers, width), outliers, seed in itertools.product(
        TASKS, ((2, 256), (6, 128), (12, 128)), (0, 20, 100, 1000), (1, 2)
    )
]
SPECS = [*QUICK, *(pytest.param(spec, marks=pytest.mark.full) for spec in GRID)]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Spec], NoisyNetwork]:
    """Return a function that makes a network, which is kept until another one is asked for."""
    kept: dict[Spec, NoisyNetwork] = {}

    def make(spec: Spec) -> NoisyNetwork:
        if spec not in kept:
            kept.clear()
            kept[spec] = NoisyNetwork(**spec._asdict(), folder=tmp_path_factory.mktemp("outputs"))
        return kept[spec]

    return make


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_sound_graphs_are_accepted_in_every_form(network: Callable[[Spec], NoisyNetwork], spec: Spec) -> None:
    made = network(spec)
    traits = GraphTraits(layers=spec.layers, features=frozenset({HIDDEN_STATES}))
    graphs = {"traced": made.traced}
    graphs |= {name: write_form(made.folded, form, traits, allow_partial=True) for name, form in FORMS.items()}
    worst = {name: max(made.comparisons(graph), key=lambda row: row.share) for name, graph in graphs.items()}
    refused = {name: row for name, row in worst.items() if not row.accepted(TOLERANCE)}
    assert refused == {}


def epsilon_of_every_norm(graph: ir.Model) -> None:
    for node in graph.graph:
        if node.op_type == "LayerNormalization":
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-5)


def tanh_in_every_gelu(graph: ir.Model) -> None:
    for node in graph.graph:
        if node.op_type == "Gelu":
            node.attributes["approximate"] = ir.AttrString("approximate", "tanh")


def every_query_scaled(factor: float) -> Callable[[ir.Model], None]:
    def change(graph: ir.Model) -> None:
        for layer in range(sum(node.op_type == "Softmax" for node in graph.graph)):
            for kind in ("weight.T", "bias"):
                scaled(f"encoder.layer.{layer}.attention.self.query.{kind}", factor)(graph)

    return change


def one_bias_shifted(graph: ir.Model) -> None:
    """One element of one bias is off by one thousandth."""
    (bias,) = [value for name, value in graph.graph.initializers.items() if name == "encoder.layer.1.output.dense.bias"]
    assert bias.const_value is not None
    array = np.array(bias.const_value.numpy())
    array[3] += 1e-3
    bias.const_value = ir.tensor(array, name=bias.name)


FAULTS: dict[str, Callable[[ir.Model], None]] = {
    "epsilons": epsilon_of_every_norm,
    "gelus": tanh_in_every_gelu,
    "scales": every_query_scaled(1.001),
    "bias": one_bias_shifted,
}
"""The faults, by name."""

HIDDEN = {("gelus", 1000), ("bias", 1000), ("scales", 0), ("scales", 1000)}
"""The faults that outputs cannot tell from rounding, by the outliers of the network: what they change is smaller than
a unit in the last place of the residual stream's largest channels, or scores are so small that their scale hardly
matters. All but that of the bias are read back from the graph."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_faults_are_refused(network: Callable[[Spec], NoisyNetwork], spec: Spec, fault: str) -> None:
    made = network(spec)
    graph = copied(made.traced)
    FAULTS[fault](graph)
    if (fault, spec.outliers) not in HIDDEN:
        assert not all(row.accepted(TOLERANCE) for row in made.comparisons(graph))
    if fault != "bias":
        assert made.faults(graph) != []


@pytest.mark.parametrize("change", [epsilon_of_one_norm, scale_of_one_attention], ids=["epsilon", "scale"])
@pytest.mark.parametrize("spec", QUICK, ids=str)
def test_a_fault_in_one_layer_that_outputs_may_not_show_is_read_back(
    network: Callable[[Spec], NoisyNetwork], spec: Spec, change: Callable[[ir.Model], None]
) -> None:
    made = network(spec)
    assert made.faults(made.traced) == []
    graph = copied(made.traced)
    change(graph)
    assert made.faults(graph) != []
