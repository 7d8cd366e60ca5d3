"""Reshape(x, Concat(Shape(x)..., 4, 8)) -> Reshape(x, [0, 0, 4, 8])."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.passes.materialize_reshape import MaterializeReshape
from rpln_graphs.rewriting.base import counts_from_model
from tests.graphs.text_graphs import model_from_text, node_named, operators, run, values_of

SPLIT_HEADS = """
heads (float[batch, sequence, 6] x) => (float[batch, sequence, 2, 3] y)
<int64[2] inner = {2, 3}>
{
    outer = Shape<start = 0, end = 2>(x)
    shape = Concat<axis = 0>(outer, inner)
    y = Reshape<allowzero = 1>(x, shape)
}
"""

MERGE_CHOICES = """
choices (float[batch, choices, 5] x, int64[2] shape) => (float[rows, 5] y)
{
    y = Reshape(x, shape)
}
"""

SWAPPED = """
swapped (float[batch, sequence] x, int64[2] shape) => (float[sequence, batch] y)
{
    y = Reshape(x, shape)
}
"""

UNNAMED = """
unnamed (float[?, 6] x, int64[2] shape) => (float[?, 2] y)
{
    y = Reshape(x, shape)
}
"""

NO_ELEMENTS = """
empty (float[0, batch] x, int64[2] shape) => (float[0, batch] y)
{
    y = Reshape<allowzero = 1>(x, shape)
}
"""

CONSTANT = """
constant (float[batch, 6] x) => (float[batch, 2, 3] y)
<int64[3] shape = {-1, 2, 3}>
{
    y = Reshape(x, shape)
}
"""

SPLIT_TWICE = """
twice (float[batch, 6] x) => (float[batch, 2, 3] y, float[batch, 2, 3] z)
<int64[2] inner = {2, 3}>
{
    outer = Shape<start = 0, end = 1>(x)
    shape = Concat<axis = 0>(outer, inner)
    y = Reshape(x, shape)
    negated = Neg(x)
    z = Reshape(negated, shape)
}
"""


def target_of(model: ir.Model, name: str) -> list[int]:
    target = node_named(model, name).inputs[1]
    assert target is not None
    return [int(entry) for entry in values_of(target)]


def test_sizes_are_written_and_symbols_copied() -> None:
    model = model_from_text(SPLIT_HEADS)
    feeds = {"x": np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6)}
    before = run(model, feeds)
    MaterializeReshape()(model)

    assert operators(model) == ["Reshape"]
    assert target_of(model, "y") == [0, 0, 2, 3]
    assert "allowzero" not in node_named(model, "y").attributes  # a 0 would mean "no elements"
    assert counts_from_model(model) == {"MaterializeReshape": 1}
    assert_array_equal(run(model, feeds)["y"], before["y"])


def test_one_symbol_that_stands_elsewhere_is_the_rest() -> None:
    model = model_from_text(MERGE_CHOICES)
    feeds = {"x": np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5), "shape": np.array([6, 5])}
    MaterializeReshape()(model)

    assert target_of(model, "y") == [-1, 5]
    assert_array_equal(run(model, feeds)["y"], feeds["x"].reshape(6, 5))


@pytest.mark.parametrize("text", [SWAPPED, NO_ELEMENTS, CONSTANT])
def test_what_no_rule_covers_stays(text: str) -> None:
    model = model_from_text(text)
    shape = node_named(model, "y").inputs[1]
    result = MaterializeReshape()(model)

    assert not result.modified
    assert node_named(model, "y").inputs[1] is shape
    assert counts_from_model(model) == {"MaterializeReshape": 0}


def test_dimensions_without_a_name_are_not_equal() -> None:
    model = model_from_text(UNNAMED)
    model.graph.outputs[0].shape = ir.Shape([None, 2])  # shape inference has invented a name for it
    feeds = {"x": np.arange(12, dtype=np.float32).reshape(2, 6), "shape": np.array([6, 2])}
    MaterializeReshape()(model)

    assert target_of(model, "y") == [-1, 2]
    assert_array_equal(run(model, feeds)["y"], feeds["x"].reshape(6, 2))


def test_equal_shapes_are_stored_once() -> None:
    model = model_from_text(SPLIT_TWICE)
    MaterializeReshape()(model)

    assert counts_from_model(model) == {"MaterializeReshape": 2}
    assert node_named(model, "y").inputs[1] is node_named(model, "z").inputs[1]
    assert "shape.0x2x3" in model.graph.initializers
