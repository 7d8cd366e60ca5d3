"""What passes share: counts, the LayerNorms of the residual stream, changes to initializers."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.rewriting.base import Context, CountingPass, counts_from_model
from rpln_graphs.rewriting.initializers import (
    cast_initializer,
    change_initializer,
    initializer_from_array,
    scale_initializer,
    shared_initializer,
    transposed_initializer,
)
from rpln_graphs.rewriting.residual_stream import residual_norms
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.residual_networks import DECODER, residual_network
from tests.graphs.text_graphs import model_from_text, values_of

WEIGHT = "g (float[2] x) => (float[2] y) <float[2] weight = {0.1, -3}> { y = Mul(x, weight) }"


class CountNodes(CountingPass):
    def rewrite(self, model: ir.Model) -> int:
        return len(model.graph)


class ChangeNothing(CountingPass):
    def rewrite(self, model: ir.Model) -> int:
        return 0


def test_counts_are_recorded_in_the_model_in_order() -> None:
    model = model_from_text(WEIGHT)
    model.metadata_props["author"] = "someone"

    assert CountNodes.configure(model, Context())(model).modified
    assert not ChangeNothing.configure(model, Context())(model).modified
    assert list(counts_from_model(model).items()) == [("CountNodes", 1), ("ChangeNothing", 0)]


def test_a_pass_without_a_formula_expects_any_count() -> None:
    assert CountNodes().expected(GraphTraits(layers=3)) is None


def test_the_norms_of_the_residual_stream_are_found_by_their_modules() -> None:
    assert list(residual_norms(residual_network(layers=2, blocks=DECODER))) == [
        *(f"encoder.layer.{layer}.{block}.LayerNorm" for layer in range(2) for block in DECODER),
        "LayerNorm",
    ]


def test_an_initializer_is_scaled_when_it_is_read() -> None:
    model = model_from_text(WEIGHT)
    weight = model.graph.initializers["weight"]
    scale_initializer(weight, 0.25)
    scale_initializer(weight, 0.5)

    assert_array_equal(values_of(weight), np.array([0.1, -3], dtype=np.float32) / 8)
    assert (weight.dtype, weight.name) == (ir.DataType.FLOAT, "weight")


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_a_cast_initializer_has_another_type_and_the_same_shape(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 0.1
    value = initializer_from_array("constant", array)
    cast_initializer(value, ir.DataType.FLOAT16)

    assert (value.dtype, value.shape, value.name) == (ir.DataType.FLOAT16, ir.Shape(shape), "constant")
    assert_array_equal(values_of(value), array.astype(np.float16))
    assert values_of(value).shape == shape


def test_changed_contents_are_rounded_to_the_type_that_they_had() -> None:
    array = np.array([[0.1, 3.0]], dtype=np.float16)
    value = initializer_from_array("constant", array)
    change_initializer(value, lambda contents: contents.astype(np.float64) / 3)

    assert (value.dtype, value.shape) == (ir.DataType.FLOAT16, ir.Shape([1, 2]))
    assert values_of(value).dtype == np.float16
    assert_array_equal(values_of(value), (array.astype(np.float64) / 3).astype(np.float16))


def test_a_shared_initializer_is_registered_once() -> None:
    graph = model_from_text(WEIGHT).graph
    first = shared_initializer(graph, "axes", [0, -1])

    assert shared_initializer(graph, "axes", [0, -1]) is first is graph.initializers["axes"]
    assert (first.dtype, first.shape) == (ir.DataType.INT64, ir.Shape([2]))
    assert_array_equal(values_of(first), [0, -1])


def test_a_turned_initializer_is_laid_out_as_it_will_be_stored() -> None:
    turned = transposed_initializer(initializer_from_array("weight", np.arange(6).reshape(2, 3)), name="weight.T")

    assert (turned.name, turned.shape) == ("weight.T", ir.Shape([3, 2]))
    assert_array_equal(values_of(turned), [[0, 3], [1, 4], [2, 5]])
    assert values_of(turned).flags["C_CONTIGUOUS"]
