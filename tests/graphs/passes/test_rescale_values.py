"""V -> 2^-k V, (P V) W_o -> (P 2^-k V) (2^k W_o)."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.passes.rescale_values import RescaleValues
from rpln_graphs.rewriting.base import Context, counts_from_model
from rpln_graphs.rewriting.ranges import Ranges
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.text_graphs import Arrays, model_from_text, run, values_of

FIRST, SECOND = "encoder.layer.0.attention", "encoder.layer.1.crossattention"

TWO_ATTENTIONS = """
attentions (float[rows, 2] x, float[rows, rows] scores) => (float[rows, 2] y)
<
    float[2, 2] encoder__layer__0__attention__self__value__weight__T = {0.1, -2.3, 3.7, 4.9},
    float[2] encoder__layer__0__attention__self__value__bias = {0.3, -0.7},
    float[2, 2] encoder__layer__0__attention__output__dense__weight__T = {1.1, 0.2, -0.4, 2.6},
    float[2] encoder__layer__0__attention__output__dense__bias = {0.9, 0.1},
    float[2, 2] encoder__layer__1__crossattention__self__value__weight__T = {-0.6, 1.3, 0.7, 0.2},
    float[2] encoder__layer__1__crossattention__self__value__bias = {-0.3, 0.8},
    float[2, 2] encoder__layer__1__crossattention__output__dense__weight__T = {2.2, -0.1, 0.5, 1.7}
>
{
    probabilities = Softmax<axis = -1>(scores)
    encoder__layer__0__attention__self__value__MatMul
        = MatMul(x, encoder__layer__0__attention__self__value__weight__T)
    encoder__layer__0__attention__self__value__Add
        = Add(encoder__layer__0__attention__self__value__MatMul, encoder__layer__0__attention__self__value__bias)
    first_context = MatMul(probabilities, encoder__layer__0__attention__self__value__Add)
    first_projected = MatMul(first_context, encoder__layer__0__attention__output__dense__weight__T)
    first = Add(first_projected, encoder__layer__0__attention__output__dense__bias)
    encoder__layer__1__crossattention__self__value__MatMul
        = MatMul(first, encoder__layer__1__crossattention__self__value__weight__T)
    encoder__layer__1__crossattention__self__value__Add = Add(
        encoder__layer__1__crossattention__self__value__MatMul, encoder__layer__1__crossattention__self__value__bias
    )
    second_context = MatMul(probabilities, encoder__layer__1__crossattention__self__value__Add)
    y = MatMul(second_context, encoder__layer__1__crossattention__output__dense__weight__T)
}
"""
RNG = np.random.default_rng(0)
FEEDS: Arrays = {name: RNG.standard_normal((3, size)).astype(np.float32) for name, size in (("x", 2), ("scores", 3))}


def peaks(model: ir.Model, **reached: float) -> Ranges:
    names = [*model.graph.initializers, *(value.name or "" for node in model.graph for value in node.outputs)]
    return {**dict.fromkeys(names, 1.0), **reached}


@pytest.mark.parametrize("shift", [1, 5, 12])
def test_outputs_are_equal_to_the_last_bit(shift: int) -> None:
    model = model_from_text(TWO_ATTENTIONS)
    before = run(model, FEEDS)
    RescaleValues(shifts={FIRST: shift, SECOND: shift + 1})(model)

    assert counts_from_model(model) == {"RescaleValues": 2}
    assert_array_equal(run(model, FEEDS)["y"], before["y"])


def test_what_leaves_the_range_is_scaled_and_what_reads_it_scaled_back() -> None:
    model, original = model_from_text(TWO_ATTENTIONS), model_from_text(TWO_ATTENTIONS)
    RescaleValues(shifts={FIRST: 3})(model)

    factors = {
        f"{FIRST}.self.value.weight.T": 1 / 8,
        f"{FIRST}.self.value.bias": 1 / 8,
        f"{FIRST}.output.dense.weight.T": 8,
    }
    for name, value in original.graph.initializers.items():
        expected = values_of(value) * np.float32(factors.get(name, 1))
        assert_array_equal(values_of(model.graph.initializers[name]), expected, err_msg=name)


def test_the_values_themselves_are_smaller() -> None:
    model = model_from_text(TWO_ATTENTIONS)
    model.graph.outputs.append(model.graph[2].outputs[0])
    values = f"{FIRST}.self.value.Add"
    before = run(model, FEEDS)[values]
    RescaleValues(shifts={FIRST: 4})(model)

    assert_array_equal(run(model, FEEDS)[values] * 16, before)


@pytest.mark.parametrize("operator", ["MatMul", "Add"])  # a bias may hide the size of the product
def test_each_attention_gets_the_smallest_shift_it_needs(operator: str) -> None:
    model = model_from_text(TWO_ATTENTIONS)
    ranges = peaks(model, **{f"{FIRST}.self.value.{operator}": 1e5, f"{SECOND}.self.value.{operator}": 9000.0})

    assert RescaleValues.configure(model, Context(ranges=ranges)).shifts == {FIRST: 4, SECOND: 1}


def test_values_that_fit_are_left_alone() -> None:
    model = model_from_text(TWO_ATTENTIONS)
    # Neither parameters nor results of the values are counted.
    ranges = peaks(model, **{f"{FIRST}.self.value.weight.T": 1e6, f"{FIRST}.self.value.bias": 1e6, "y": 1e6})
    rescaling = RescaleValues.configure(model, Context(ranges=ranges))
    result = rescaling(model)

    assert not result.modified
    assert counts_from_model(model) == {"RescaleValues": 0}


def test_the_count_depends_on_more_than_the_network() -> None:
    assert RescaleValues(shifts={FIRST: 1}).expected(GraphTraits(layers=1)) is None
