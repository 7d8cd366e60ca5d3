"""MatMul(x, Transpose(weight)) -> MatMul(x, weight.T)."""

import numpy as np
from numpy.testing import assert_array_equal

from rpln_graphs.passes.transpose_weights import TransposeWeights
from rpln_graphs.rewriting.base import counts_from_model
from tests.graphs.text_graphs import model_from_text, operators, run, values_of

FEEDS = {"x": np.array([[1, 2, 3], [-4, 5, 0.5]], dtype=np.float32)}

TWO_LINEARS = """
linear (float[rows, 3] x) => (float[rows, 2] y, float[rows, 1] z)
<float[2, 3] first__weight = {1, 2, 3, 4, 5, 6}, float[1, 3] second__weight = {7, 8, 9}>
{
    first_t = Transpose<perm = [1, 0]>(first__weight)
    y = MatMul(x, first_t)
    second_t = Transpose<perm = [1, 0]>(second__weight)
    z = MatMul(x, second_t)
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

BATCH_OF_MATRICES = """
batched (float[1, rows, 3] x) => (float[1, rows, 2] y)
<float[1, 2, 3] weight = {1, 2, 3, 4, 5, 6}>
{
    turned = Transpose<perm = [0, 2, 1]>(weight)
    y = MatMul(x, turned)
}
"""

COMPUTED = """
computed (float[rows, 3] x) => (float[3, rows] y)
{
    y = Transpose<perm = [1, 0]>(x)
}
"""


def test_weights_are_stored_turned() -> None:
    model = model_from_text(TWO_LINEARS)
    before = run(model, FEEDS)
    TransposeWeights()(model)

    assert operators(model) == ["MatMul", "MatMul"]
    assert list(model.graph.initializers) == ["first.weight.T", "second.weight.T"]
    assert_array_equal(values_of(model.graph.initializers["first.weight.T"]), [[1, 4], [2, 5], [3, 6]])
    assert counts_from_model(model) == {"TransposeWeights": 2}
    after = run(model, FEEDS)
    assert_array_equal(after["y"], before["y"])
    assert_array_equal(after["z"], before["z"])


def test_a_tied_weight_stays_as_it_is() -> None:
    model = model_from_text(TIED)
    result = TransposeWeights()(model)

    assert not result.modified
    assert operators(model) == ["Gather", "Transpose", "MatMul"]
    assert list(model.graph.initializers) == ["weight"]
    assert counts_from_model(model) == {"TransposeWeights": 0}


def test_only_matrices_are_turned() -> None:
    model = model_from_text(BATCH_OF_MATRICES)
    TransposeWeights()(model)

    assert operators(model) == ["Transpose", "MatMul"]
    assert counts_from_model(model) == {"TransposeWeights": 0}


def test_only_weights_are_turned() -> None:
    model = model_from_text(COMPUTED)
    TransposeWeights()(model)

    assert operators(model) == ["Transpose"]
    assert counts_from_model(model) == {"TransposeWeights": 0}
