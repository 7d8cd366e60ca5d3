"""Softmax(Q K^T s + mask) V, head by head -> MultiHeadAttention(Q, K, V, mask)."""

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from rpln_graphs.passes.fuse_multi_head_attention import (
    MIXED_TYPES,
    OTHER_ADDEND,
    OTHER_HEADS,
    OTHER_MASK,
    OTHER_SCALE,
    FuseMultiHeadAttention,
)
from rpln_graphs.rewriting.attentions import PROBABILITIES_READ
from rpln_graphs.rewriting.base import IN_FLOAT32
from rpln_graphs.rewriting.traits import ATTENTIONS, CROSS_ATTENTIONS, HEAD_MASK, RELATIVE_POSITIONS, GraphTraits
from tests.graphs.fusions import applied, assert_computes_the_same, count, optimized_runner, reasons
from tests.graphs.networks import trace_task
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run

LEAST = -3.4028234663852886e38
CONSTANTS = f"""
    float one = {{1}}, float least = {{{LEAST}}}, float scale = {{0.61}},
    int64[4] apart = {{0, 0, 2, 3}}, int64[3] joined = {{0, 0, 6}}, int64[2] twice = {{1, 2}}, int64[1] once = {{1}}
"""
MASK = """
    seen = Unsqueeze(mask, twice)
    floats = Cast<to = 1>(seen)
    hidden = Sub(one, floats)
    addend = Mul(hidden, least)
"""
PER_QUERY = MASK.replace("Unsqueeze(mask, twice)", "Unsqueeze(mask, once)")
QUERY = "q4 = Reshape(q, apart) qh = Transpose<perm = [0, 2, 1, 3]>(q4)"
VALUE = "v4 = Reshape(v, apart) vh = Transpose<perm = [0, 2, 1, 3]>(v4)"
KEYS = f"k4 = Reshape(k, apart) turned = Transpose<perm = [0, 2, 3, 1]>(k4) {VALUE}"
CONTINUED = f"""
    k4 = Reshape(k, apart) kn = Transpose<perm = [0, 2, 1, 3]>(k4) {VALUE.replace("vh", "vn")}
    kh = Concat<axis = -2>(pk, kn)
    vh = Concat<axis = -2>(pv, vn)
    turned = Transpose<perm = [0, 1, 3, 2]>(kh)
"""
STORED = "turned = Transpose<perm = [0, 1, 3, 2]>(kh)"
ATTEND = """
    products = MatMul(qh, turned)
    scaled = Mul(products, scale)
    scores = Add(scaled, addend)
    weights = Softmax<axis = -1>(scores)
    contexts = MatMul(weights, vh)
    rows = Transpose<perm = [0, 2, 1, 3]>(contexts)
    y = Reshape(rows, joined)
"""
TOKENS = "float[b, s, 6] q, float[b, t, 6] k, float[b, t, 6] v"
EARLIER = "float[b, s, 6] q, float[b, s, 6] k, float[b, s, 6] v, float[b, 2, p, 3] pk, float[b, 2, p, 3] pv"
READY = "float[b, s, 6] q, float[b, 2, t, 3] kh, float[b, 2, t, 3] vh"
PRESENT = ", float[b, 2, total, 3] kh, float[b, 2, total, 3] vh"
RNG = np.random.default_rng(0)


def graph(inputs: str, mask: str, *nodes: str, outputs: str = "") -> str:
    return f"g ({inputs}, {mask}) => (float[b, s, 6] y{outputs}) <{CONSTANTS}> {{ {' '.join(nodes)} {ATTEND} }}"


SELF = graph(TOKENS.replace("t,", "s,"), "int64[b, s] mask", MASK, QUERY, KEYS)
CROSS = graph(TOKENS, "int64[b, t] mask", MASK, QUERY, KEYS)
PER_QUERY_SELF = graph(TOKENS, "bool[b, s, t] mask", PER_QUERY, QUERY, KEYS)
MEMORY = graph(READY, "int64[b, t] mask", MASK, QUERY, STORED)
PAST = graph(EARLIER, "int64[b, s, total] mask", PER_QUERY, QUERY, CONTINUED, outputs=PRESENT)
FORMS = {"self": SELF, "cross": CROSS, "per query": PER_QUERY_SELF, "memory": MEMORY, "past": PAST}
UNSCALED = SELF.replace("scaled = Mul(products, scale)", "").replace("Add(scaled,", "Add(products,")
UNMASKED = SELF.replace("scores = Add(scaled, addend)", "").replace(
    "Softmax<axis = -1>(scores)", "Softmax<axis = -1>(scaled)"
)
SELECTED = CROSS.replace("float[b, s, 6] q", "float[b, 1, 6] q").replace("float[b, s, 6] y", "float[b, 1, 6] y")
LAST_ROW = (
    SELECTED.replace("int64[b, t] mask", "int64[b, s, t] mask")
    .replace("Unsqueeze(mask, twice)", "Unsqueeze(mask, once)")
    .replace("addend = Mul(hidden, least)", "all = Mul(hidden, least) addend = Gather<axis = 2>(all, last)")
    .replace("int64[1] once", "int64[1] last = {4}, int64[1] once")
)


def normal(*shape: int) -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def feeds(name: str, *, earlier: int = 4) -> Arrays:
    """Return two texts of five queries. The first text's mask hides nothing, the second's has holes."""
    own = {"q": normal(2, 5, 6)}
    if name == "memory":
        own |= {"kh": normal(2, 2, 7, 3), "vh": normal(2, 2, 7, 3)}
    elif name == "past":
        own |= {part: normal(2, 5, 6) for part in "kv"} | {part: normal(2, 2, earlier, 3) for part in ("pk", "pv")}
    else:
        own |= {part: normal(2, 5 if name == "self" else 7, 6) for part in "kv"}
    shape = {"self": (2, 5), "per query": (2, 5, 7), "past": (2, 5, earlier + 5)}.get(name, (2, 7))
    mask = RNG.integers(0, 2, shape)
    mask[0] = 0
    return own | {"mask": mask.astype(bool if name == "per query" else np.int64)}


def assert_same(text: str, given: Arrays) -> ir.Model:
    """Return the fused graph, after a check that it gives, optimized or not, what the other gives."""
    plain = model_from_text(text)
    model = applied(plain, FuseMultiHeadAttention)
    assert reasons(model, FuseMultiHeadAttention) == []
    assert count(model, FuseMultiHeadAttention) == 1
    expected = run(plain, given)
    for found in (run(model, given), optimized_runner(model)(given)):
        for name, array in expected.items():
            assert_allclose(found[name], array, rtol=0, atol=1e-6, err_msg=name)
    return model


@pytest.mark.parametrize("name", FORMS)
def test_an_attention_is_one_operator(name: str) -> None:
    model = assert_same(FORMS[name], feeds(name))

    assert operators(model) == ["Cast", "MultiHeadAttention"]
    assert node_named(model, "y").attributes["scale"].as_float() == pytest.approx(0.61)
    assert node_named(model, "y").attributes["mask_filter_value"].as_float() == pytest.approx(LEAST)
    assert node_named(model, "y").attributes["num_heads"].as_int() == 2


def test_a_text_of_padding_attends_to_all_tokens_alike() -> None:
    given = feeds("self")
    found = run(applied(model_from_text(SELF), FuseMultiHeadAttention), given)["y"]

    assert_allclose(found[0], np.broadcast_to(given["v"][0].mean(axis=0), (5, 6)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("earlier", [0, 1, 9])
def test_keys_and_values_are_added_to_earlier_ones(earlier: int) -> None:
    model = assert_same(PAST, feeds("past", earlier=earlier))

    assert [value.name for value in node_named(model, "y").outputs] == ["y", "kh", "vh"]
    assert [value.name if value else "" for value in node_named(model, "y").inputs] == [
        *("q", "k", "v", "", "mask.int32", "", "pk", "pv")
    ]


def test_values_keep_types_and_shapes() -> None:
    model = applied(model_from_text(PAST), FuseMultiHeadAttention)

    assert [[str(size) for size in value.shape or ()] for value in node_named(model, "y").outputs] == [
        ["b", "s", "6"],
        ["b", "2", "total", "3"],
        ["b", "2", "total", "3"],
    ]
    for node in model.graph:
        assert not node.metadata_props
        assert all(value.dtype is not None and value.shape is not None for value in node.outputs)


def test_a_scale_in_the_weights_is_a_scale_of_one() -> None:
    model = assert_same(UNSCALED, feeds("self"))

    assert node_named(model, "y").attributes["scale"].as_float() == 1


def test_a_mask_is_optional() -> None:
    given = feeds("self")
    del given["mask"]
    text = UNMASKED.replace(", int64[b, s] mask", "").replace(MASK, "")
    model = assert_same(text, given)

    assert operators(model) == ["MultiHeadAttention"]
    assert "mask_filter_value" not in node_named(model, "y").attributes


@pytest.mark.parametrize("text", [SELECTED, LAST_ROW])
def test_queries_may_be_fewer_than_keys(text: str) -> None:
    given = feeds("per query" if "s, t" in text else "cross")
    given["q"] = given["q"][:, :1]
    given["mask"] = given["mask"].astype(np.int64)
    model = assert_same(text, given)

    assert {value.name for value in model.graph.initializers.values()}.isdisjoint({"one", "least", "scale", "apart"})


def test_layers_share_their_mask() -> None:
    network = trace_task("token-classification", num_hidden_layers=3)
    model = applied(network.graph, FuseMultiHeadAttention)
    masks = {node.inputs[4] for node in model.graph if node.op_type == "MultiHeadAttention"}

    assert len(masks) == 1
    assert operators(model).count("Cast") == operators(network.graph).count("Cast")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SELF.replace("float", "double"), MIXED_TYPES),
        (
            SELF.replace("one = {1}", "one = {2}"),
            OTHER_ADDEND,
        ),
        (
            SELF.replace("int64[b, s] mask", "float[b, s] mask"),
            OTHER_ADDEND,
        ),
        (
            SELF.replace("Sub(one, floats)", "Sub(floats, one)"),
            OTHER_ADDEND,
        ),
        (
            SELF.replace("Mul(hidden, least)", "Neg(hidden)"),
            OTHER_ADDEND,
        ),
        (
            SELF.replace("int64[b, s] mask", "int64[1, s] mask"),
            OTHER_MASK,
        ),
        (
            PER_QUERY_SELF.replace("bool[b, s, t] mask", "bool[b, c, t] mask"),
            OTHER_MASK,
        ),
        (
            SELF.replace("float scale = {0.61},", "").replace("int64[b, s] mask", "int64[b, s] mask, float scale"),
            OTHER_SCALE,
        ),
        (SELF.replace("scale = {0.61}", "scale = {0}"), OTHER_SCALE),
        (
            SELF.replace("int64[b, s] mask", "int64[b, 2, s, s] mask").replace(
                "Unsqueeze(mask, twice)", "Identity(mask)"
            ),
            OTHER_MASK,
        ),
        (
            SELF.replace("float scale = {0.61}", "float[2, 1, 1] scale = {0.61, 0.7}"),
            OTHER_SCALE,
        ),
        (
            CROSS.replace("float[b, t, 6] v", "float[c, t, 6] v"),
            OTHER_HEADS,
        ),
        (
            MEMORY.replace("float[b, 2, t, 3] kh", "float[b, 1, t, 3] kh"),
            OTHER_HEADS,
        ),
    ],
)
def test_what_the_operator_cannot_do_is_refused(text: str, reason: str) -> None:
    plain = model_from_text(text)
    model = applied(plain, FuseMultiHeadAttention)

    assert reasons(model, FuseMultiHeadAttention) == [reason]
    assert count(model, FuseMultiHeadAttention) == 0
    assert operators(model) == operators(plain)


@pytest.mark.parametrize(
    ("replaced", "by"),
    [
        ("y = Reshape(rows, joined)", "y = Reshape(rows, joined) z = Neg(weights)"),
        ("y = Reshape(rows, joined)", "y = Reshape(rows, joined) z = Neg(products)"),
        ("y = Reshape(rows, joined)", "y = Reshape(rows, joined) z = Neg(qh)"),
    ],
)
def test_what_others_read_of_an_attention_stays(replaced: str, by: str) -> None:
    text = SELF.replace("float[b, s, 6] y)", "float[b, s, 6] y, float[b, 2, s, u] z)").replace(replaced, by)
    plain = model_from_text(text)
    model = applied(plain, FuseMultiHeadAttention)

    assert count(model, FuseMultiHeadAttention) == 0
    assert len(reasons(model, FuseMultiHeadAttention)) == 1
    assert operators(model) == operators(plain)


def test_scores_left_in_fp32_among_fp16_are_conceded() -> None:
    text = (
        SELF.replace("float[b", "float16[b")
        .replace("MatMul(qh, turned)", "MatMul(qw, tw)")
        .replace("products =", "qw = Cast<to = 1>(qh) tw = Cast<to = 1>(turned) products =")
        .replace("MatMul(weights, vh)", "MatMul(narrow, vh)")
        .replace("contexts =", "narrow = Cast<to = 10>(weights) contexts =")
    )
    model = applied(model_from_text(text), FuseMultiHeadAttention)

    assert count(model, FuseMultiHeadAttention) == 0
    assert reasons(model, FuseMultiHeadAttention) == [IN_FLOAT32]


def test_fp16_scores_that_meet_their_mask_in_fp32_are_fused() -> None:
    text = (
        UNSCALED.replace("float[b", "float16[b")
        .replace("Add(products, addend)", "Add(wide, addend)")
        .replace("scores =", "wide = Cast<to = 1>(products) scores =")
        .replace("MatMul(weights, vh)", "MatMul(narrow, vh)")
        .replace("contexts =", "narrow = Cast<to = 10>(weights) contexts =")
    )
    model = applied(model_from_text(text), FuseMultiHeadAttention)

    assert operators(model) == ["Cast", "MultiHeadAttention"]
    assert node_named(model, "y").outputs[0].dtype == ir.DataType.FLOAT16


@pytest.mark.parametrize(
    ("fields", "outputs", "inputs", "feature"),
    [
        ({"position_embedding_type": "relative_key"}, (), ("input_ids", "attention_mask"), RELATIVE_POSITIONS),
        ({}, ("attentions",), ("input_ids", "attention_mask"), ATTENTIONS),
        ({}, (), ("input_ids", "attention_mask", "head_mask"), HEAD_MASK),
    ],
)
def test_what_needs_the_probabilities_keeps_them(
    fields: dict[str, Any], outputs: tuple[str, ...], inputs: tuple[str, ...], feature: str
) -> None:
    network = trace_task("token-classification", outputs=outputs, inputs=inputs, **fields)
    model = applied(network.graph, FuseMultiHeadAttention)

    assert count(model, FuseMultiHeadAttention) == 0
    assert len(reasons(model, FuseMultiHeadAttention)) == 2
    assert FuseMultiHeadAttention().expected(GraphTraits(layers=2, features=frozenset({feature}))) == 0
    assert_computes_the_same(network, model)


def test_heads_are_counted_in_each_layer() -> None:
    network = trace_task("token-classification", pruned_heads={0: [1, 2]})
    model = applied(network.graph, FuseMultiHeadAttention)

    assert [node.attributes["num_heads"].as_int() for node in model.graph if node.op_type == "MultiHeadAttention"] == [
        2,
        4,
    ]
    assert reasons(model, FuseMultiHeadAttention) == []
    assert_computes_the_same(network, model)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (set(), 14),
        ({RELATIVE_POSITIONS}, 7),
        ({ATTENTIONS}, 7),
        ({CROSS_ATTENTIONS}, 7),
        ({RELATIVE_POSITIONS, ATTENTIONS}, 7),
        ({ATTENTIONS, CROSS_ATTENTIONS}, 0),
        ({HEAD_MASK}, 0),
    ],
)
def test_the_formula_knows_which_attention_is_excepted(features: set[str], expected: int) -> None:
    network = GraphTraits(layers=7, cross_attention=True, features=frozenset(features))

    assert FuseMultiHeadAttention().expected(network) == expected
    assert FuseMultiHeadAttention().expected(GraphTraits(layers=7)) == 7


@pytest.mark.parametrize("outputs", [("attentions",), ("cross_attentions",)])
def test_one_attention_gives_its_probabilities_and_the_other_is_fused(outputs: tuple[str, ...]) -> None:
    network = trace_task("text2text-generation", variant="with-past", outputs=outputs, num_hidden_layers=1)
    model = applied(network.graph, FuseMultiHeadAttention)

    assert count(model, FuseMultiHeadAttention) == 1
    assert reasons(model, FuseMultiHeadAttention) == [PROBABILITIES_READ]
    assert_computes_the_same(network, model)


def test_the_operator_for_masked_decoders_is_not_for_buffers_that_grow() -> None:
    """This is why the pass does not use the operator. If ONNX Runtime ever allows it, the test fails."""
    inputs = "float[1, 1, 6] q, float[1, 1, 6] k, float[1, 1, 6] v, float[1, 2, 4, 3] pk, float[1, 2, 4, 3] pv"
    outputs = "float[1, 1, 6] y, float[1, 2, 5, 3] kh, float[1, 2, 5, 3] vh"
    node = "com.microsoft.DecoderMaskedMultiHeadAttention<num_heads = 2>(q, k, v, , , pk, pv)"
    header = '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>'
    model = ir.from_onnx_text(f"{header} g ({inputs}) => ({outputs}) {{ y, kh, vh = {node} }}")
    given = {"q": normal(1, 1, 6), "k": normal(1, 1, 6), "v": normal(1, 1, 6)}
    given |= {"pk": normal(1, 2, 4, 3), "pv": normal(1, 2, 4, 3)}

    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="past_present_share_buffer"):
        optimized_runner(model)(given)
