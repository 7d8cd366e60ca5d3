"""Recipes: which passes run, in which order, and how often the graph is measured."""

import numpy as np
import onnx_ir as ir
import pytest

from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.errors import PassError
from rpln_graphs.passes.base import Network, Ranges
from rpln_graphs.recipes import RECIPES, Recipe, apply_recipe
from tests.graphs.residual_networks import FEEDS, residual_network

NETWORK = Network(layers=1)


class Measurer:
    """Measures the graph it is given, and remembers how often; `stretch` makes its residual stream reach farther."""

    def __init__(self, *, stretch: float = 1.0) -> None:
        self.calls = 0
        self.stretch = stretch

    def __call__(self, model: ir.Model) -> Ranges:
        self.calls += 1
        ranges = dict(measure_ranges(model, [FEEDS]))
        ranges["hidden_states.1.scaled" if self.calls > 1 else "hidden_states.1"] *= self.stretch
        return ranges


@pytest.mark.parametrize(
    ("recipe", "passes"),
    [
        ("fp32", []),
        ("fp16", ["RescaleResidual", "RescaleValues", "LowerPrecision"]),
        ("bf16", ["LowerPrecision"]),
    ],
)
def test_passes_run_in_order_and_are_counted(recipe: str, passes: list[str]) -> None:
    counts = apply_recipe(residual_network(layers=1), RECIPES[recipe], NETWORK, measure=Measurer())

    assert list(counts) == passes


@pytest.mark.parametrize(
    ("recipe", "stretch", "calls"),
    [
        ("fp32", 1.0, 0),
        ("bf16", 1.0, 1),
        ("fp16", 1.0, 1),  # nothing was rescaled, so that the ranges still hold
        ("fp16", 1e6, 2),  # the residual stream was
    ],
)
def test_a_graph_is_measured_again_only_after_it_changed(recipe: str, stretch: float, calls: int) -> None:
    measurer = Measurer(stretch=stretch)
    apply_recipe(residual_network(layers=1), RECIPES[recipe], NETWORK, measure=measurer)

    assert measurer.calls == calls


def test_the_types_of_inputs_and_outputs_are_handed_on() -> None:
    model = residual_network(layers=1)
    apply_recipe(model, RECIPES["fp16"], NETWORK, io_dtype=ir.DataType.FLOAT16, measure=Measurer())

    values = (*model.graph.inputs, *model.graph.outputs)
    assert {value.dtype for value in values} == {ir.DataType.FLOAT16}


def test_another_count_than_the_formula_says_is_refused() -> None:
    with pytest.raises(PassError, match=r"RescaleResidual changed 9 places of the graph, its formula says 15"):
        apply_recipe(residual_network(layers=1), RECIPES["fp16"], Network(layers=2), measure=Measurer(stretch=1e6))


@pytest.mark.parametrize(("recipe", "lowers"), [("fp32", False), ("fp16", True), ("bf16", True)])
def test_a_recipe_knows_whether_the_cpu_computes_in_its_type(recipe: str, lowers: bool) -> None:
    assert RECIPES[recipe].lowers is lowers


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES.values() if recipe.lowers], ids=lambda recipe: recipe.name
)
def test_a_tie_is_what_the_type_cannot_tell_apart(recipe: Recipe) -> None:
    one, two = np.array([1, 2], dtype=recipe.dtype.numpy())

    assert recipe.tolerance.resolution == float(np.nextafter(one, two)) - 1
