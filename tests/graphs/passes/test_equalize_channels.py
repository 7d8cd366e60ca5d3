"""LN(x; g, b) W -> LN(x; g / s, b / s) (diag(s) W): the graph computes the same, and channels are alike."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.passes.equalize_channels import EqualizeChannels
from rpln_graphs.passes.merge_projections import MergeProjections
from rpln_graphs.passes.pack_tokens import PackTokens
from rpln_graphs.quantization.equalize import equalizable_activations, equalized, factors_from_observed
from rpln_graphs.quantization.observe import Observed, observe
from rpln_graphs.recipes import FOLDS
from rpln_graphs.rewriting.base import Context, CountingPass, counts_from_model
from rpln_graphs.rewriting.initializers import change_initializer
from tests.graphs.folded import applied
from tests.graphs.networks import Network, copied, trace_task
from tests.graphs.quantized import ENCODERS
from tests.graphs.text_graphs import Arrays, model_from_text, operators, run, runner, values_of

LAYERS = 2
ATTENTION = "encoder.layer.1.attention"
OUTLYING = [3, 10, 21]
"""The channels of the residual stream, and of the values of an attention, that outliers are put into."""


@cache
def network(task: str) -> Network:
    return trace_task(task)


def with_outliers(graph: ir.Model, factor: float) -> ir.Model:
    """Return a copy whose first attention's output, and whose second attention's values, have outlying channels."""
    copy = copied(graph)

    def enlarged(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[..., OUTLYING] *= factor
        return array

    for name in ("encoder.layer.0.attention.output.dense", f"{ATTENTION}.self.value"):
        for part in ("weight.T", "bias"):
            change_initializer(copy.graph.initializers[f"{name}.{part}"], enlarged)
    return copy


def seen_in(graph: ir.Model, network: Network) -> Mapping[str, Observed]:
    names = [name for place in equalizable_activations(graph) for name in place.aliases]
    return observe(graph, names, [case.feeds for case in network.stress_cases()[::3]])


def equalizing(graph: ir.Model, network: Network) -> Context:
    return Context(factors=factors_from_observed(graph, seen_in(graph, network)))


def rewritten(graph: ir.Model, context: Context, *kinds: type[CountingPass]) -> ir.Model:
    copy = copied(graph)
    for kind in kinds:
        kind.configure(copy, context)(copy)
    return copy


def assert_same(one: ir.Model, other: ir.Model, network: Network) -> None:
    """Refuse outputs that differ in a single bit, over the stress set."""
    runs = runner(one), runner(other)
    for case in network.stress_cases():
        found, expected = (compute(case.feeds) for compute in runs)
        for name, array in expected.items():
            assert_array_equal(found[name], array, err_msg=f"{case.name}: {name}")


@pytest.mark.parametrize("factor", [1.0, 20.0, 300.0])
@pytest.mark.parametrize("task", ENCODERS)
def test_outputs_are_equal_to_the_last_bit(task: str, factor: float) -> None:
    before = with_outliers(applied(network(task).graph, *FOLDS), factor)
    context = equalizing(before, network(task))
    after = rewritten(before, context, EqualizeChannels)

    # A LayerNorm before each attention and each feed-forward, and what each attention's output projection reads.
    assert counts_from_model(after)["EqualizeChannels"] == 3 * LAYERS
    assert any((factors != 1).any() for factors in context.factors.values())
    assert operators(after) == operators(before)
    assert_same(after, before, network(task))


@pytest.mark.parametrize("kinds", [(), (PackTokens,), (MergeProjections,)])
@pytest.mark.parametrize("folds", [(), FOLDS])
def test_other_forms_are_equal_to_the_last_bit(
    kinds: tuple[type[CountingPass], ...], folds: tuple[type[CountingPass], ...]
) -> None:
    made = network("token-classification")
    before = with_outliers(applied(made.graph, *folds), 100.0)
    context = equalizing(before, made)

    assert_same(rewritten(before, context, EqualizeChannels, *kinds), rewritten(before, context, *kinds), made)


def test_merged_projections_are_equalized_too() -> None:
    made = network("token-classification")
    merged = rewritten(with_outliers(applied(made.graph, *FOLDS), 100.0), Context(), MergeProjections)
    after = rewritten(merged, equalizing(merged, made), EqualizeChannels)

    # The values cannot be told from queries and keys there, so that LayerNorms alone are left.
    assert counts_from_model(after)["EqualizeChannels"] == 2 * LAYERS
    assert_same(after, merged, made)


@pytest.mark.parametrize("task", ["token-classification", "text-classification"])
def test_what_was_seen_is_what_the_equalized_graph_shows(task: str) -> None:
    made = network(task)
    before = with_outliers(applied(made.graph, *FOLDS), 100.0)
    context = equalizing(before, made)
    foreseen = equalized(before, seen_in(before, made), context.factors)
    shown = seen_in(rewritten(before, context, EqualizeChannels), made)

    assert foreseen.keys() == shown.keys()
    for name, seen in shown.items():
        for part in ("lows", "highs", "means", "sample"):
            assert_array_equal(getattr(foreseen[name], part), getattr(seen, part), err_msg=f"{name}: {part}")


@pytest.mark.parametrize("reader", [f"{ATTENTION}.self.query", f"{ATTENTION}.output.dense"])
def test_outlying_channels_are_brought_in_line(reader: str) -> None:
    made = network("token-classification")
    before = with_outliers(applied(made.graph, *FOLDS), 300.0)
    seen = seen_in(before, made)
    foreseen = equalized(before, seen, factors_from_observed(before, seen))
    (name,) = (
        place.name
        for place in equalizable_activations(before)
        if f"{reader}.weight.T" in {str(weight.name) for weight in place.readers}
    )

    def spread(observed: Mapping[str, Observed]) -> float:
        return float(observed[name].channels.max() / np.median(observed[name].channels))

    assert spread(seen) > 3
    assert spread(foreseen) < spread(seen) / 2


NORMED = """
g (float[b, s, 2] x) => (float[b, s, 2] y)
<float[2] gamma = {1, 1}, float[2] beta = {0.5, 0.25},
 float[2, 2] encoder__layer__0__intermediate__weight = {1, 2, 3, 4}, float[2] bias = {5, 6}>
{
    normed = LayerNormalization<epsilon = 0.01>(x, gamma, beta)
    product = MatMul(normed, encoder__layer__0__intermediate__weight)
    y = Add(product, bias)
}
"""
FACTORS = {"normed": np.array([4.0, 0.5], dtype=np.float32)}


def test_the_scale_is_divided_and_rows_are_multiplied() -> None:
    before = model_from_text(NORMED)
    after = rewritten(before, Context(factors=FACTORS), EqualizeChannels)

    contents = {name: values_of(value) for name, value in after.graph.initializers.items()}
    assert_array_equal(contents["gamma"], [0.25, 2])
    assert_array_equal(contents["beta"], [0.125, 0.5])
    assert_array_equal(contents["encoder.layer.0.intermediate.weight"], [[4, 8], [1.5, 2]])
    assert_array_equal(contents["bias"], [5, 6])
    feeds: Arrays = {"x": np.array([[[0.3, 1.2], [-7.0, 200.0]]], dtype=np.float32)}
    assert_array_equal(run(after, feeds)["y"], run(before, feeds)["y"])


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("y = Add(product, bias)", "more = Relu(normed)\n sum = Add(more, product)\n y = Add(sum, bias)"),
        ("y = Add(product, bias)", "y = Add(product, gamma)"),
        ("(float[b, s, 2] y)", "(float[b, s, 2] y, float[b, s, 2] normed)"),
        ("encoder__layer__0__intermediate__weight", "classifier__weight"),
    ],
)
def test_what_something_else_reads_is_left_alone(text: str, replacement: str) -> None:
    model = model_from_text(NORMED.replace(text, replacement))

    assert equalizable_activations(model) == []


def test_channels_and_rows_that_are_always_zero_keep_their_factor_of_one() -> None:
    model = model_from_text(NORMED.replace("{1, 2, 3, 4}", "{0, 0, 3, 4}").replace("{0.5, 0.25}", "{0, 0}"))
    seen = observe(model, ["normed"], [{"x": np.array([[[1.0, -1.0], [4.0, 2.0]]], dtype=np.float32)}])

    assert_array_equal(factors_from_observed(model, seen)["normed"], [1, 1])
