"""Functions that answer questions about the values of a graph."""

import onnx_ir as ir
import pytest

from rpln_graphs.rewriting.values import contents, is_constant, maker, number, same_shape, same_size, sole_reader
from tests.graphs.text_graphs import model_from_text, node_named

GRAPH = """
g (float[b, c] x, float given) => (float[b, c] y)
<float given = {2}, float[1] half = {0.5}, float[2] pair = {1, 2}>
{
    first = Mul(x, half)
    second = Mul(first, given)
    y = Add(second, first)
}
"""

BATCH, CHOICES = ir.SymbolicDim("batch"), ir.SymbolicDim("choices")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (3, 3, True),
        (3, 4, False),
        (3, BATCH, False),
        (BATCH, ir.SymbolicDim("batch"), True),
        (BATCH, CHOICES, False),
        (ir.SymbolicDim("batch*choices"), ir.SymbolicDim("choices*batch"), True),
        (ir.SymbolicDim(None), ir.SymbolicDim(None), False),
    ],
)
def test_sizes_are_the_same_if_they_are_known_to_be(
    one: int | ir.SymbolicDim, other: int | ir.SymbolicDim, same: bool
) -> None:
    assert same_size(one, other) is same
    assert same_shape(ir.Shape([2, one]), ir.Shape([2, other])) is same


def test_shapes_that_are_unknown_or_of_another_rank_are_not_the_same() -> None:
    assert not same_shape(None, None)
    assert not same_shape(ir.Shape([2]), ir.Shape([2, 1]))


def test_an_initializer_that_is_an_input_too_is_no_constant() -> None:
    values = {value.name: value for value in model_from_text(GRAPH).graph.initializers.values()}

    assert [is_constant(values[name]) for name in ("given", "half", "pair")] == [False, True, True]
    assert [number(values[name]) for name in ("given", "half", "pair")] == [None, 0.5, None]
    assert contents(values["given"]) is None
    assert contents(values["pair"]) is not None


def test_makers_and_readers() -> None:
    model = model_from_text(GRAPH)
    first, second = (node_named(model, name) for name in ("first", "second"))

    assert maker(first.outputs[0], "Add", "Mul") is first
    assert maker(first.outputs[0], "Add") is None
    assert maker(model.graph.inputs[0], "Mul") is None
    assert sole_reader(second.outputs[0]) is node_named(model, "y")
    assert sole_reader(first.outputs[0]) is None
    assert sole_reader(node_named(model, "y").outputs[0]) is None
    first.domain = "com.example"
    assert maker(first.outputs[0], "Mul") is None
