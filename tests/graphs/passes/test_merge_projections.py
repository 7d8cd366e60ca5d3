"""x Wq + bq, x Wk + bk, x Wv + bv -> Split(x [Wq Wk Wv] + [bq bk bv])."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.passes.lower_precision import LowerPrecision
from rpln_graphs.passes.merge_projections import MergeProjections
from rpln_graphs.rewriting.projections import NO_PROJECTION
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.conftest import Traced
from tests.graphs.decoders import translating
from tests.graphs.folded import applied, apply, change, distance, refused
from tests.graphs.networks import copied, trace_task
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, values_of

ATTENTION = """
g (float[1, rows, 2] x, float[1, rows, 2] memory) => (float[1, rows, 1] y)
<float[2, 2] a__query__weight__T = {1, 2, 3, 4}, float[2] a__query__bias = {5, 6},
 float[2, 2] a__key__weight__T = {0.1, 0.2, 0.3, 0.4}, float[2] a__key__bias = {0.5, 0.6},
 float[2, 1] a__value__weight__T = {7, 8}, float[1] a__value__bias = {9}>
{
    a__query__MatMul = MatMul(x, a__query__weight__T)
    a__query__Add = Add(a__query__MatMul, a__query__bias)
    a__key__MatMul = MatMul(x, a__key__weight__T)
    a__key__Add = Add(a__key__bias, a__key__MatMul)
    keys = Transpose<perm = [0, 2, 1]>(a__key__Add)
    scores = MatMul(a__query__Add, keys)
    a__value__MatMul = MatMul(x, a__value__weight__T)
    a__value__Add = Add(a__value__MatMul, a__value__bias)
    y = MatMul(scores, a__value__Add)
}
"""
ROWS = np.array([[[0.1, -0.2], [3, 0.4], [-5, -6]]], dtype=np.float32)
FEEDS: Arrays = {"x": ROWS, "memory": ROWS[:, ::-1].copy()}


def test_three_products_become_one() -> None:
    before = model_from_text(ATTENTION)
    after = applied(before, MergeProjections)

    assert operators(after) == ["MatMul", "Add", "Split", "Transpose", "MatMul", "MatMul"]
    contents = {name: values_of(value) for name, value in after.graph.initializers.items()}
    assert set(contents) == {"a.query_key_value.weight.T", "a.query_key_value.bias", "split.2x2x1"}
    expected = np.array([[1, 2, 0.1, 0.2, 7], [3, 4, 0.3, 0.4, 8]], dtype=np.float32)
    assert_array_equal(contents["a.query_key_value.weight.T"], expected)
    assert_array_equal(contents["a.query_key_value.bias"], np.array([5, 6, 0.5, 0.6, 9], dtype=np.float32))
    assert_array_equal(contents["split.2x2x1"], [2, 2, 1])
    assert change(before, after, FEEDS) < 1e-6
    assert refused(after, MergeProjections) == {}


def test_values_keep_names_types_and_shapes() -> None:
    after = applied(model_from_text(ATTENTION), MergeProjections)

    split = node_named(after, "a.query_key_value.Add.Split")
    assert [value.name for value in split.outputs] == ["a.query.Add", "a.key.Add", "a.value.Add"]
    for node in after.graph:
        assert node.outputs[0].dtype == ir.DataType.FLOAT
        assert node.outputs[0].shape is not None
    assert split.inputs[0] is not None
    assert split.inputs[0].shape == ir.Shape([1, "rows", 5])
    assert [value.shape for value in split.outputs] == [ir.Shape([1, "rows", width]) for width in (2, 2, 1)]


def test_keys_and_values_of_another_sequence() -> None:
    before = model_from_text(ATTENTION.replace("MatMul(x, a__query", "MatMul(memory, a__query"))
    after = applied(before, MergeProjections)

    assert "a.key_value.weight.T" in after.graph.initializers
    assert operators(after).count("MatMul") == 4
    assert change(before, after, FEEDS) < 1e-6


def test_a_result_that_the_graph_gives_out_is_given_out_still() -> None:
    before = model_from_text(
        ATTENTION.replace("(float[1, rows, 1] y)", "(float[1, rows, 1] y, float[1, rows, 2] a__key__Add)")
    )
    after = applied(before, MergeProjections)

    assert operators(after).count("Split") == 1
    assert change(before, after, FEEDS) < 1e-6


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("a__value__Add = Add(a__value__MatMul, a__value__bias)", "a__value__Add = Cast<to = 1>(a__value__MatMul)"),
        ("y = MatMul(scores, a__value__Add)", "z = MatMul(scores, a__value__Add)\n y = Add(z, a__value__MatMul)"),
        ("y = MatMul(scores, a__value__Add)", "z = MatMul(scores, a__value__Add)\n y = Add(z, a__value__bias)"),
    ],
)
def test_what_cannot_be_merged_is_left_out_with_a_reason(text: str, replacement: str) -> None:
    before = model_from_text(ATTENTION.replace(text, replacement))
    after = applied(before, MergeProjections)

    assert "a.query_key.weight.T" in after.graph.initializers
    assert refused(after, MergeProjections) == {"a.value.MatMul": f"it {NO_PROJECTION}"}
    assert change(before, after, FEEDS) < 1e-6


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("y = MatMul(scores, a__value__Add)", "y = Add(a__value__Add, a__value__Add)"),
        ("y = MatMul(scores, a__value__Add)", "y = MatMul(a__value__Add, a__second)"),
        ("a__value__Add = Add(a__value__MatMul, a__value__bias)", "a__value__Add = Relu(a__value__MatMul)"),
        ("MatMul(x, a__value__weight__T)", "MatMul(memory, a__value__weight__T)"),
    ],
)
def test_what_no_attention_reads_and_what_reads_another_value_stay(text: str, replacement: str) -> None:
    written = ATTENTION.replace("= {9}>", "= {9}, float[1, 1] a__second = {2}>").replace(text, replacement)
    after = applied(model_from_text(written), MergeProjections)

    assert "a.query_key.weight.T" in after.graph.initializers
    assert node_named(after, "a.value.MatMul").op_type == "MatMul"
    assert refused(after, MergeProjections) == {}


def test_a_weight_that_can_be_given_is_no_constant() -> None:
    model = model_from_text(ATTENTION.replace("2] memory)", "2] memory, float[2, 2] a__key__weight__T)"))
    apply(model, MergeProjections)

    assert "a.query_value.weight.T" in model.graph.initializers


@pytest.mark.parametrize("task", ["token-classification", "fill-mask"])
def test_all_layers_of_an_encoder(traced: Traced, task: str) -> None:
    network = traced(task)
    graph = copied(network.graph)

    assert apply(graph, MergeProjections) == {"MergeProjections": 2}
    assert MergeProjections().expected(GraphTraits(layers=2)) == 2
    assert operators(graph).count("MatMul") == operators(network.graph).count("MatMul") - 2 * 2
    assert values_of(graph.graph.initializers["encoder.layer.1.attention.self.query_key_value.weight.T"]).shape == (
        32,
        96,
    )
    assert distance(network, graph) < 1e-5


# The decoder's cross-attention projects only queries. The encoder's graph projects its output to keys and values.
@pytest.mark.parametrize(("variant", "layers"), [("with-past", 2), ("prefill", 2), ("encoder", 1)])
def test_both_sides_of_cross_attention(variant: str, layers: int) -> None:
    network = translating(variant)
    graph = copied(network.graph)

    assert apply(graph, MergeProjections) == {"MergeProjections": layers}
    assert refused(graph, MergeProjections) == {}
    assert MergeProjections().expected(GraphTraits(layers=layers, cross_attention=layers == 2)) == layers
    assert distance(network, graph) < 1e-5


def test_relative_positions_and_pruned_heads() -> None:
    network = trace_task(
        "feature-extraction",
        inputs=("input_ids",),
        outputs=("attentions",),
        position_embedding_type="relative_key_query",
        pruned_heads={0: [1, 2], 1: [0]},
    )
    graph = copied(network.graph)

    assert apply(graph, MergeProjections) == {"MergeProjections": 2}
    assert {"split.16x16x16", "split.24x24x24"} <= set(graph.graph.initializers)
    assert distance(network, graph) < 1e-5


def test_a_graph_in_fp16(traced: Traced) -> None:
    graph = copied(traced("token-classification").graph)
    LowerPrecision(dtype=ir.DataType.FLOAT16)(graph)

    assert apply(graph, MergeProjections) == {"MergeProjections": 2}
    merged = graph.graph.initializers["encoder.layer.0.attention.self.query_key_value.weight.T"]
    assert merged.dtype == ir.DataType.FLOAT16
    assert values_of(merged).dtype == np.float16
