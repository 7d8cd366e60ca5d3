"""Softmax(Q K^T s + mask) V -> Attention(Q, K, V, mask)."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from rpln_graphs.emulate import rounding_copy
from rpln_graphs.passes.fold_query_scale import FoldQueryScale
from rpln_graphs.passes.fuse_attention import OTHER_OPERANDS, FuseAttention
from rpln_graphs.passes.lower_precision import LowerPrecision
from rpln_graphs.passes.merge_projections import MergeProjections
from rpln_graphs.rewriting.attentions import KEYS_NOT_TURNED, OTHER_AXIS, OTHER_SCORES, PROBABILITIES_READ, SCORES_READ
from rpln_graphs.rewriting.base import IN_FLOAT32, refusals_from_model
from rpln_graphs.rewriting.traits import ATTENTIONS, CACHE, CROSS_ATTENTIONS, HEAD_MASK, RELATIVE_POSITIONS, GraphTraits
from tests.graphs.conftest import Traced
from tests.graphs.decoders import generating, translating
from tests.graphs.folded import applied, apply, change, distance, refused
from tests.graphs.networks import copied, trace_task
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run, runner

HEADS = """
g (float[rows, tokens, 6] q, float[rows, tokens, 6] k, float[rows, tokens, 6] v, float[rows, 1, 1, tokens] keep)
=> (float[rows, tokens, 6] y)
<int64[4] apart = {0, 0, 2, 3}, int64[3] beside = {0, 0, 6}, int64[4] turned_apart = {0, 2, 3, -1},
 float scale = {0.5}, float least = {-3.4028234663852886e38}>
{
    mask = Mul(keep, least)
    q_apart = Reshape(q, apart)
    queries = Transpose<perm = [0, 2, 1, 3]>(q_apart)
    k_apart = Reshape(k, apart)
    keys = Transpose<perm = [0, 2, 3, 1]>(k_apart)
    v_apart = Reshape(v, apart)
    values = Transpose<perm = [0, 2, 1, 3]>(v_apart)
    scores = MatMul(queries, keys)
    scaled = Mul(scores, scale)
    masked = Add(scaled, mask)
    probabilities = Softmax<axis = -1>(masked)
    contexts = MatMul(probabilities, values)
    turned = Transpose<perm = [0, 2, 1, 3]>(contexts)
    y = Reshape(turned, beside)
}
"""
WHOLE = ["Mul", "Max", "Shape", "Concat", "Expand", "Attention"]


def attention_from_text(text: str) -> ir.Model:
    """Return the graph, without nodes that nothing reads after a replacement."""
    model = model_from_text(text)
    common.RemoveUnusedNodesPass()(model)
    return model


def feeds(**more: Any) -> Arrays:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((3, 5, 6)).astype(np.float32) for name in ("q", "k", "v")}
    keep = np.zeros((3, 1, 1, 5), dtype=np.float32)
    keep[1, ..., [0, 3]] = 1  # what Mul makes the least number
    keep[2] = 1
    return {**arrays, "keep": keep, **more}


def test_all_between_projections_becomes_one_node() -> None:
    before = attention_from_text(HEADS)
    after = applied(before, FuseAttention)

    assert operators(after) == WHOLE
    node = node_named(after, "y")
    assert [value.name for value in node.inputs if value is not None] == ["q", "k", "v", "mask.of_queries"]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    assert attributes == {"q_num_heads": 2, "kv_num_heads": 2, "scale": 0.5}
    assert node.outputs[0].shape == ir.Shape(["rows", "tokens", 6])
    assert refused(after, FuseAttention) == {}
    # One of the rows is all padding.
    assert change(before, after, feeds()) < 1e-6


def test_the_graph_is_raised_to_the_opset_that_has_the_operator() -> None:
    after = applied(attention_from_text(HEADS), FuseAttention)

    assert after.opset_imports[""] == 23
    onnx.checker.check_model(ir.to_proto(after), full_check=True)


def test_a_graph_without_attention_keeps_its_opset() -> None:
    model = attention_from_text("g (float[rows, 2] x) => (float[rows, 2] y) { y = Softmax(x) }")

    assert apply(model, FuseAttention) == {"FuseAttention": 0}
    assert model.opset_imports[""] == 20


@pytest.mark.parametrize(
    ("text", "replacement", "expected"),
    [
        ("Add(scaled, mask)", "Add(mask, scaled)", WHOLE),
        ("Mul(scores, scale)", "Mul(scale, scores)", WHOLE),
        ("Add(scaled, mask)", "Add(scores, mask)", WHOLE),
        ("Softmax<axis = -1>(masked)", "Softmax<axis = 3>(scaled)", ["Attention"]),
        ("Softmax<axis = -1>(masked)", "Softmax(scores)", ["Attention"]),
    ],
)
def test_scale_and_mask_are_optional(text: str, replacement: str, expected: list[str]) -> None:
    before = attention_from_text(HEADS.replace(text, replacement))
    after = applied(before, FuseAttention)

    assert operators(after) == expected
    given = {str(value.name): feeds()[str(value.name)] for value in before.graph.inputs}
    assert change(before, after, given) < 1e-6


def test_without_a_scale_it_is_one() -> None:
    after = applied(attention_from_text(HEADS.replace("Add(scaled, mask)", "Add(scores, mask)")), FuseAttention)

    assert node_named(after, "y").attributes["scale"].as_float() == 1


def test_heads_that_others_read_stay_heads() -> None:
    text = HEADS.replace("(float[rows, tokens, 6] y)", "(float[rows, tokens, 6] y, float[rows, 2, tokens, 3] values)")
    before = attention_from_text(text)
    after = applied(before, FuseAttention)

    assert operators(after).count("Attention") == 1
    node = node_named(after, "contexts")
    assert [value.name for value in node.inputs if value is not None][:3] == ["queries", "keys.heads", "values"]
    assert set(node.attributes) == {"scale"}
    assert [node.op_type for node in after.graph][-2:] == ["Transpose", "Reshape"]
    assert change(before, after, feeds()) < 1e-6


def test_keys_and_values_with_a_past() -> None:
    text = (
        HEADS.replace("keep)", "keep, float[rows, 2, 2, 3] past)")
        .replace("float[rows, 1, 1, tokens] keep", "float[rows, 1, 1, total] keep")
        .replace(
            "keys = Transpose<perm = [0, 2, 3, 1]>(k_apart)",
            "new = Transpose<perm = [0, 2, 1, 3]>(k_apart)\n"
            "all = Concat<axis = 2>(past, new)\n keys = Transpose<perm = [0, 1, 3, 2]>(all)",
        )
        .replace(
            "values = Transpose<perm = [0, 2, 1, 3]>(v_apart)",
            "fresh = Transpose<perm = [0, 2, 1, 3]>(v_apart)\nvalues = Concat<axis = 2>(past, fresh)",
        )
    )
    before = attention_from_text(text)
    after = applied(before, FuseAttention)

    node = node_named(after, "contexts")
    assert node.op_type == "Attention"
    assert [value.name for value in node.inputs if value is not None][:3] == ["queries", "all", "values"]
    assert len(node.outputs) == 1  # what TensorRT asks for
    past = np.random.default_rng(1).standard_normal((3, 2, 2, 3)).astype(np.float32)
    keep = np.zeros((3, 1, 1, 7), dtype=np.float32)
    keep[1, ..., [0, 6]] = 1
    assert change(before, after, feeds(past=past, keep=keep)) < 1e-6


def test_a_mask_of_each_query_and_of_one_query_is_taken_as_it_is() -> None:
    each = attention_from_text(HEADS.replace("float[rows, 1, 1, tokens] keep", "float[rows, 1, tokens, tokens] keep"))
    one = attention_from_text(HEADS.replace("[rows, tokens, 6] q", "[rows, 1, 6] q").replace("tokens, 6] y", "1, 6] y"))
    causal = np.broadcast_to(np.triu(np.ones((5, 5), dtype=np.float32), 1), (3, 1, 5, 5)).copy()

    for before, given in ((each, feeds(keep=causal)), (one, feeds(q=feeds()["q"][:, :1]))):
        after = applied(before, FuseAttention)
        assert operators(after) == ["Mul", "Max", "Attention"]
        assert change(before, after, given) < 1e-6


@pytest.mark.parametrize(
    ("shape", "axes"), [((5,), "tokens"), ((5, 5), "tokens, tokens"), ((2, 5, 5), "2, tokens, tokens")]
)
def test_a_mask_of_fewer_axes(shape: tuple[int, ...], axes: str) -> None:
    before = attention_from_text(HEADS.replace("float[rows, 1, 1, tokens] keep", f"float[{axes}] keep"))
    after = applied(before, FuseAttention)

    (node,) = (node for node in after.graph if node.op_type == "Attention")
    assert node.inputs[3] is not None
    assert node.inputs[3].shape is not None
    assert len(node.inputs[3].shape) == 4
    keep = np.random.default_rng(2).integers(0, 2, shape).astype(np.float32)
    assert change(before, after, feeds(keep=keep)) < 1e-6


def test_the_mask_is_expanded_once_for_all() -> None:
    network = trace_task("feature-extraction", inputs=("input_ids", "attention_mask"), num_hidden_layers=3)
    graph = applied(network.graph, FuseAttention)

    assert operators(graph).count("Attention") == 3
    assert [operators(graph).count(kind) for kind in ("Max", "Expand", "Softmax", "Transpose")] == [1, 1, 0, 0]
    assert distance(network, graph) < 1e-5


@pytest.mark.parametrize(
    ("text", "replacement", "reason"),
    [
        ("rows, 1, 1, tokens] keep", "1, rows, 1, 1, tokens] keep", OTHER_OPERANDS),
        ("Softmax<axis = -1>", "Softmax<axis = 1>", OTHER_AXIS),
        (
            "scaled = Mul(scores, scale)",
            "more = Add(scores, scores)\n scaled = Mul(more, scale)",
            OTHER_SCORES,
        ),
        ("scaled = Mul(scores, scale)", "scaled = Mul(scores, scores)", OTHER_SCORES),
        ("scaled = Mul(scores, scale)", "scaled = Div(scores, scale)", OTHER_SCORES),
        (
            "y = Reshape(turned, beside)",
            "z = Reshape(turned, beside)\n s = ReduceSum(scores)\n y = Add(z, s)",
            OTHER_SCORES,
        ),
        (
            "y = Reshape(turned, beside)",
            "z = Reshape(turned, beside)\n s = ReduceSum(scaled)\n y = Add(z, s)",
            OTHER_SCORES,
        ),
        (
            "y = Reshape(turned, beside)",
            "z = Reshape(turned, beside)\n s = ReduceSum(masked)\n y = Add(z, s)",
            SCORES_READ,
        ),
        (
            "y = Reshape(turned, beside)",
            "z = Reshape(turned, beside)\n s = ReduceSum(probabilities)\n y = Add(z, s)",
            PROBABILITIES_READ,
        ),
        (
            "contexts = MatMul(probabilities, values)",
            "some = Mul(probabilities, scale)\n contexts = MatMul(some, values)",
            PROBABILITIES_READ,
        ),
        ("contexts = MatMul(probabilities, values)", "contexts = MatMul(values, probabilities)", PROBABILITIES_READ),
        ("keys = Transpose<perm = [0, 2, 3, 1]>(k_apart)", "keys = Reshape(k, turned_apart)", KEYS_NOT_TURNED),
    ],
)
def test_what_is_refused_stays_as_it_was(text: str, replacement: str, reason: str) -> None:
    changed = HEADS.replace(text, replacement)
    model = attention_from_text(changed)
    before = operators(model)

    assert apply(model, FuseAttention) == {"FuseAttention": 0}
    assert operators(model) == before
    assert model.opset_imports[""] == 20
    assert refused(model, FuseAttention) == {"probabilities": reason}


def test_a_scale_that_is_given_is_no_constant() -> None:
    model = attention_from_text(HEADS.replace("tokens] keep)", "tokens] keep, float scale)"))

    assert apply(model, FuseAttention) == {"FuseAttention": 0}


# -- networks --------------------------------------------------------------------------------------------------------


def test_a_decoder_with_cross_attention() -> None:
    network = translating("with-past")
    graph = applied(network.graph, FoldQueryScale, FuseAttention)

    assert operators(graph).count("Attention") == 2 * 2
    assert "Softmax" not in operators(graph)
    # The causal mask has a row for each query, the mask over the encoder's output has not.
    assert [operators(graph).count(kind) for kind in ("Max", "Expand")] == [2, 1]
    assert distance(network, graph) < 1e-5
    assert FuseAttention().expected(GraphTraits(layers=2, cross_attention=True, features=frozenset({CACHE}))) == 2 * 2


def test_a_prompt_whose_keys_are_given_out() -> None:
    network = generating("prefill")
    graph = applied(network.graph, FuseAttention)

    assert operators(graph).count("Attention") == 2
    assert distance(network, graph) < 1e-5
    assert FuseAttention().expected(GraphTraits(layers=2)) == 2


def test_behind_merged_projections(traced: Traced) -> None:
    network = traced("token-classification")
    graph = applied(network.graph, MergeProjections, FuseAttention)

    assert operators(graph).count("Attention") == operators(graph).count("Split") == 2
    assert distance(network, graph) < 1e-5


def test_relative_positions_are_left_to_cross_attention() -> None:
    network = trace_task(
        "text2text-generation", variant="full", inputs=("input_ids",), position_embedding_type="relative_key"
    )
    graph = applied(network.graph, FuseAttention)

    assert operators(graph).count("Attention") == operators(graph).count("Softmax") == 2
    assert set(refused(graph, FuseAttention).values()) == {OTHER_SCORES}
    assert distance(network, graph) < 1e-5
    assert FuseAttention().expected(GraphTraits(layers=2, features=frozenset({RELATIVE_POSITIONS}))) == 0


@pytest.mark.parametrize(
    ("options", "feature"),
    [
        ({"inputs": ("input_ids",), "outputs": ("attentions",)}, ATTENTIONS),
        ({"inputs": ("input_ids", "head_mask")}, HEAD_MASK),
    ],
)
def test_exceptions_are_left_alone(options: dict[str, Any], feature: str) -> None:
    network = trace_task("token-classification", num_hidden_layers=1, **options)
    graph = copied(network.graph)

    assert apply(graph, FuseAttention) == {"FuseAttention": 0}
    assert set(refused(graph, FuseAttention).values()) == {PROBABILITIES_READ}
    assert FuseAttention().expected(GraphTraits(layers=1, features=frozenset({feature}))) == 0


def test_one_of_two_attentions_may_be_an_output() -> None:
    network = trace_task(
        "text2text-generation",
        variant="full",
        inputs=("input_ids",),
        outputs=("cross_attentions",),
        num_hidden_layers=1,
    )
    graph = copied(network.graph)

    assert apply(graph, FuseAttention) == {"FuseAttention": 1}
    assert list(refused(graph, FuseAttention)) == ["encoder.layer.0.crossattention.self.Softmax"]
    assert distance(network, graph) < 1e-5


@pytest.mark.parametrize(
    ("features", "count"),
    [
        ({ATTENTIONS}, 3),
        ({RELATIVE_POSITIONS}, 3),
        ({CROSS_ATTENTIONS}, 3),
        ({HEAD_MASK}, 0),
        ({ATTENTIONS, CROSS_ATTENTIONS}, 0),
        ({CACHE}, 6),
    ],
)
def test_the_formula_of_a_decoder(features: set[str], count: int) -> None:
    formulas = GraphTraits(layers=3, cross_attention=True, features=frozenset(features))

    assert FuseAttention().expected(formulas) == count
    assert features <= FuseAttention.unless.keys() | {CACHE}


# -- lower types -----------------------------------------------------------------------------------------------------


def lowered(model: ir.Model, dtype: ir.DataType, **reaches: float) -> ir.Model:
    """Return `model` in a lower type. All values fit, except those of the mask and those in `reaches`."""
    graph = copied(model)
    names = [value.name or "" for node in graph.graph for value in (*node.inputs, *node.outputs) if value is not None]
    ranges = {name: 3.4e38 if name in {"encoder.Mul", "encoder.Mul.1"} else 1.0 for name in names}
    LowerPrecision(dtype=dtype, ranges={**ranges, **reaches})(graph)
    return graph


@pytest.mark.parametrize(
    ("dtype", "bound"), [(ir.DataType.FLOAT16, 4e-3), (ir.DataType.BFLOAT16, 4e-2)], ids=["fp16", "bf16"]
)
def test_graphs_in_lower_types(traced: Traced, dtype: ir.DataType, bound: float) -> None:
    network = traced("token-classification")
    before = lowered(network.graph, dtype)
    after = applied(before, FuseAttention)

    assert operators(after).count("Attention") == 2
    for node in after.graph:
        if node.op_type == "Attention":
            assert {value.dtype for value in (*node.inputs, *node.outputs) if value is not None} == {dtype}
    one, two = runner(rounding_copy(before)), runner(rounding_copy(after))
    for case in network.stress_cases():
        kept = case.mask == 1
        expected, found = (next(iter(compute(case.feeds).values()))[kept] for compute in (one, two))
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected, atol=bound * max(1.0, np.abs(expected).max()), rtol=0)


def test_scores_in_fp32_are_conceded(traced: Traced) -> None:
    scores = "encoder.layer.1.attention.self.MatMul"
    model = lowered(traced("token-classification").graph, ir.DataType.FLOAT16, **{scores: 9e4})

    assert apply(model, FuseAttention) == {"FuseAttention": 1}
    (refusal,) = refusals_from_model(model)["FuseAttention"]
    assert (refusal.node, refusal.reason) == ("encoder.layer.1.attention.self.Softmax", IN_FLOAT32)
    assert refusal.conceded


def test_a_row_of_padding_is_finite_in_fp16() -> None:
    network = trace_task("feature-extraction", inputs=("input_ids", "attention_mask"), num_hidden_layers=1)
    model = applied(lowered(network.graph, ir.DataType.FLOAT16), FuseAttention)
    ids = np.full((2, 4), 5)
    found = run(model, {"input_ids": ids, "attention_mask": np.zeros_like(ids)})

    assert np.isfinite(found["last_hidden_state"]).all()
