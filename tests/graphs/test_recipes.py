"""Recipes: which passes run, in which order, and how often the graph is measured."""

import numpy as np
import onnx_ir as ir
import pytest

from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.errors import PassError
from rpln_graphs.recipes import RECIPES, Recipe, Rewrite, apply_recipe, apply_recipe_together
from rpln_graphs.rewriting.ranges import Ranges
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.residual_networks import FEEDS, residual_network
from tests.graphs.text_graphs import model_from_text, values_of

NETWORK = GraphTraits(layers=1)


class Measurer:
    """Measures the graph it is given, and counts how often. `stretch` enlarges its residual stream."""

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
        ("fp16", 1.0, 1),  # nothing was rescaled, so the ranges are still right
        ("fp16", 1e6, 2),  # the residual stream was rescaled
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
    with pytest.raises(PassError, match=r"RescaleResidual changed 9 .* 15"):
        apply_recipe(residual_network(layers=1), RECIPES["fp16"], GraphTraits(layers=2), measure=Measurer(stretch=1e6))


@pytest.mark.parametrize(("recipe", "lowers"), [("fp32", False), ("fp16", True), ("bf16", True)])
def test_a_recipe_knows_whether_the_cpu_computes_in_its_type(recipe: str, lowers: bool) -> None:
    assert RECIPES[recipe].lowers is lowers


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES.values() if recipe.lowers], ids=lambda recipe: recipe.name
)
def test_a_tie_is_what_the_type_cannot_tell_apart(recipe: Recipe) -> None:
    one, two = np.array([1, 2], dtype=recipe.computes_in.numpy())

    assert recipe.tolerance.resolution == float(np.nextafter(one, two)) - 1


# -- graphs that hand keys and values on -----------------------------------------------------------------------------


ATTENTION = """
attention (float[rows, 2] x) => (float[rows, 2] y, float[rows, 2] {name}__0__key, float[rows, 2] {name}__0__value)
<
    float[2, 2] encoder__layer__0__{attention}__self__value__weight__T = {{1, -2, 3, 4}},
    float[2, 2] encoder__layer__0__{attention}__output__dense__weight__T = {{1, 2, -4, 2}}
>
{{
    {name}__0__key = Neg(x)
    {name}__0__value = MatMul(x, encoder__layer__0__{attention}__self__value__weight__T)
    context = Relu({name}__0__value)
    y = MatMul(context, encoder__layer__0__{attention}__output__dense__weight__T)
}}
"""
VALUE = "encoder.layer.0.{attention}.self.value.weight.T"


def attending(name: str, attention: str = "attention") -> ir.Model:
    """Return a graph with the outputs `name`.0.key and `name`.0.value."""
    return model_from_text(ATTENTION.format(name=name, attention=attention))


def rewrite(model: ir.Model, attention: str = "attention", *, value: float = 1.0, key: float = 1.0) -> Rewrite:
    """Return a rewrite of a model whose values all reach 1, except the given keys and the values' projection."""
    values = (*model.graph.inputs, *(output for node in model.graph for output in node.outputs))
    ranges = {str(entry.name): key if ".key" in str(entry.name) else 1.0 for entry in values}
    ranges |= dict.fromkeys(model.graph.initializers, 1.0) | {f"encoder.layer.0.{attention}.self.value.MatMul": value}
    return Rewrite(model=model, traits=GraphTraits(layers=0), measure=lambda _: ranges)


def scale_of(model: ir.Model, attention: str = "attention") -> float:
    """Return the factor that the value projection was multiplied by."""
    return float(values_of(model.graph.initializers[VALUE.format(attention=attention)])[0, 0])


@pytest.mark.parametrize("turned", [False, True])
def test_graphs_of_one_decoder_scale_their_cache_alike(turned: bool) -> None:
    prompt, step = attending("present"), attending("present")
    rewrites = [rewrite(prompt, value=1e5), rewrite(step, value=3e4)]
    apply_recipe_together(rewrites[::-1] if turned else rewrites, RECIPES["fp16"])

    assert scale_of(prompt) == scale_of(step) == 2.0**-4


@pytest.mark.parametrize("turned", [False, True])
def test_graphs_of_one_decoder_store_their_cache_alike(turned: bool) -> None:
    prompt, step = attending("present"), attending("present")
    rewrites = [rewrite(prompt, key=1e5), rewrite(step)]
    apply_recipe_together(rewrites[::-1] if turned else rewrites, RECIPES["fp16"])

    for model in (prompt, step):
        types = {value.name: value.dtype for value in model.graph.outputs}
        assert types["present.0.key"] == ir.DataType.FLOAT
        assert types["present.0.value"] == ir.DataType.FLOAT16


def test_what_makes_a_memory_and_what_reads_it_scale_alike() -> None:
    encoder, decoder = (attending("cross_key_values", "crossattention") for _ in range(2))
    rewrites = [rewrite(encoder, "crossattention", value=1e5), rewrite(decoder, "crossattention")]
    apply_recipe_together(rewrites, RECIPES["fp16"])

    assert scale_of(encoder, "crossattention") == scale_of(decoder, "crossattention") == 2.0**-4


def test_an_encoder_and_its_decoder_scale_attentions_of_one_name_apart() -> None:
    encoder, decoder = attending("cross_key_values"), attending("present")
    apply_recipe_together([rewrite(encoder, value=1e5), rewrite(decoder)], RECIPES["fp16"])

    assert (scale_of(encoder), scale_of(decoder)) == (2.0**-4, 1.0)
