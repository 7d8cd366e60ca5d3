"""Constants, shape arithmetic, Identity, common subexpressions and dead code are removed."""

import numpy as np
from numpy.testing import assert_array_equal

from rpln_graphs.passes.fold_constants import FoldConstants
from rpln_graphs.rewriting.base import counts_from_model
from tests.graphs.text_graphs import model_from_text, operators, run

FEEDS = {"x": np.array([[1, 2], [-4, 0.5]], dtype=np.float32)}

REDUNDANT = """
redundant (float[rows, 2] x) => (float[rows, 2] y)
<float[2] two = {2, 2}>
{
    three = Constant<value_floats = [3.0, 3.0]>()
    six = Mul(two, three)
    same = Identity(x)
    left = Mul(same, six)
    right = Mul(x, six)
    unused = Exp(right)
    y = Add(left, right)
}
"""

STATIC_SHAPE = """
static (float[rows, 2] x) => (int64[1] width)
{
    width = Shape<start = 1>(x)
}
"""

EQUAL_WEIGHTS = """
equal (float[rows, 2] x) => (float[rows, 2] y)
<float[2] first__bias = {1, 1}, float[2] second__bias = {1, 1}>
{
    first = Add(x, first__bias)
    y = Add(first, second__bias)
}
"""

TIED = """
tied (int64[rows] ids, float[rows, 3] x) => (float[rows, 3] embedded, float[rows, 2] y)
<float[2, 3] weight = {1, 2, 3, 4, 5, 6}>
{
    embedded = Gather(weight, ids)
    turned = Transpose<perm = [1, 0]>(weight)
    y = MatMul(x, turned)
}
"""

PASSED_THROUGH = """
through (float[rows, 2] x) => (float[rows, 2] y, float[rows, 2] z)
{
    y = Identity(x)
    z = Identity(x)
}
"""

EQUAL_OUTPUTS = """
equal (float[rows, 2] x) => (float[rows, 2] y, float[rows, 2] z)
{
    y = Exp(x)
    z = Exp(x)
}
"""

CLEAN = """
clean (float[rows, 2] x) => (float[rows, 2] y)
<float[2] bias = {1, 2}>
{
    y = Add(x, bias)
}
"""


def test_what_is_known_is_computed_and_what_is_unused_goes() -> None:
    model = model_from_text(REDUNDANT)
    before = run(model, FEEDS)
    FoldConstants()(model)

    assert operators(model) == ["Mul", "Add"]
    assert counts_from_model(model) == {"FoldConstants": 5}
    assert_array_equal(run(model, FEEDS)["y"], before["y"])


def test_a_size_that_is_static_is_no_arithmetic() -> None:
    model = model_from_text(STATIC_SHAPE)
    FoldConstants()(model)

    assert "Shape" not in operators(model)
    assert_array_equal(run(model, FEEDS)["width"], [2])


def test_equal_weights_stay_apart() -> None:
    model = model_from_text(EQUAL_WEIGHTS)
    FoldConstants()(model)

    assert list(model.graph.initializers) == ["first.bias", "second.bias"]


def test_a_tied_weight_is_not_folded_into_a_second_copy() -> None:
    model = model_from_text(TIED)
    result = FoldConstants()(model)

    assert not result.modified
    assert operators(model) == ["Gather", "Transpose", "MatMul"]
    assert list(model.graph.initializers) == ["weight"]


def test_outputs_keep_their_names_where_an_input_passes_through() -> None:
    model = model_from_text(PASSED_THROUGH)
    FoldConstants()(model)

    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    outputs = run(model, FEEDS)
    assert_array_equal(outputs["y"], FEEDS["x"])
    assert_array_equal(outputs["z"], FEEDS["x"])


def test_outputs_keep_their_names_where_they_are_equal() -> None:
    model = model_from_text(EQUAL_OUTPUTS)
    FoldConstants()(model)

    assert operators(model).count("Exp") == 1
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    outputs = run(model, FEEDS)
    assert_array_equal(outputs["z"], outputs["y"])


def test_a_clean_graph_stays_as_it_is() -> None:
    model = model_from_text(CLEAN)
    result = FoldConstants()(model)

    assert not result.modified
    assert operators(model) == ["Add"]
    assert counts_from_model(model) == {"FoldConstants": 0}
