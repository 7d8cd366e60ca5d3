"""Operators that work token by token run over a batch's real tokens only: the same numbers there, and less work."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from rpln_graphs.passes.pack_tokens import INNER_GRAPH, NO_CONTEXT, NO_MASK, NO_NAMES, READS_PADDING, PackTokens
from rpln_graphs.rewriting.traits import CACHE, FIRST_TOKEN, HIDDEN_STATES, LAST_TOKEN, GraphTraits
from tests.graphs.fusions import applied, count, reasons
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run

WEIGHTS = """
    float[7, 3] table = {
        0.1, -2, 1.3, 0.4, 0.5, -0.6, 1.7, 0.8, 0.9, -1, 0.2, 1.2, 1.3, 0.4, -1.5, 0.7, 1.7, 1.8, 0.3, 2, -2.1
    },
    float[3, 3] square = {0.9, 1.3, -0.4, 0.2, 0.3, -0.7, 1.1, 0.5, -0.2}, float[3] bias = {0.3, -2, 1.1},
    float[3] gamma = {0.9, 1.3, -0.4}, float[3] beta = {0.2, -0.1, 0.7},
    float low = {-1e9}, int64[1] axis = {1}, int64[1] last = {2}, int64[1] zero = {0}, int64[1] two = {2},
    int64 place = {0}, int64 second = {1}
"""
INPUTS = "int64[b, s] ids, int64[b, s] attention_mask"
ATTENTION = """
    seen = Cast<to = 9>(attention_mask)
    keys = Unsqueeze(seen, axis)
    turned = Transpose<perm = [0, 2, 1]>(normed)
    scores = MatMul(normed, turned)
    masked = Where(keys, scores, low)
    probabilities = Softmax<axis = -1>(masked)
    context = MatMul(probabilities, normed)
"""
LAYER = f"""
    embedded = Gather(table, ids)
    normed = LayerNormalization<axis = -1, epsilon = 0.01>(embedded, gamma, beta)
    {ATTENTION}
    projected = MatMul(context, square)
    biased = Add(projected, bias)
    total = Add(embedded, biased)
"""
GIVEN = f"{LAYER} y = Gelu(total)"
KINDS = {
    "none": [[1, 1, 1, 1], [1, 1, 1, 1]],
    "right": [[1, 1, 1, 0], [1, 1, 0, 0]],
    "left": [[0, 0, 1, 1], [0, 1, 1, 1]],
    "holes": [[1, 0, 1, 0], [0, 1, 0, 1]],
    "empty": [[0, 0, 0, 0], [1, 1, 0, 0]],
    "all padding": [[0, 0, 0, 0], [0, 0, 0, 0]],
    "one token": [[1], [1]],
    "one text": [[1, 1, 0]],
}


def graph(nodes: str, *, inputs: str = INPUTS, outputs: str = "float[b, s, 3] y") -> str:
    return f"g ({inputs}) => ({outputs}) <{WEIGHTS}> {{ {nodes} }}"


def feeds(mask: list[list[int]]) -> Arrays:
    keep = np.array(mask)
    return {"ids": np.random.default_rng(0).integers(0, 7, keep.shape), "attention_mask": keep}


def computed(keep: np.ndarray) -> np.ndarray:
    """Return the tokens of a batch that are computed: real ones, first ones, and texts without a real token."""
    first = np.arange(keep.shape[1]) == 0
    return np.asarray((keep == 1) | first | (keep.max(axis=1, keepdims=True) == 0))


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_attention_is_computed_at_real_tokens(kind: str) -> None:
    plain = model_from_text(graph(GIVEN))
    packed = applied(plain, PackTokens)
    given = feeds(KINDS[kind])
    (found,), (expected,) = run(packed, given).values(), run(plain, given).values()

    assert (count(packed, PackTokens), reasons(packed, PackTokens)) == (1, [])
    at = computed(given["attention_mask"])
    assert np.abs(found[at] - expected[at]).max() <= 1e-6
    assert found.shape == expected.shape
    assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_is_computed_that_nobody_reads(kind: str) -> None:
    packed = applied(model_from_text(graph(GIVEN)), PackTokens)
    packed.graph.outputs.append(node_named(packed, "total").outputs[0])
    given = feeds(KINDS[kind])

    assert run(packed, given)["total"].shape == (1, computed(given["attention_mask"]).sum(), 3)


def test_a_layer_costs_one_gather_in_and_one_out() -> None:
    packed = applied(model_from_text(graph(GIVEN)), PackTokens)
    gathers = [node.name for node in packed.graph if node.op_type == "Gather"]

    # The length comes from the indices, and the ids are packed before the embeddings.
    assert gathers == [
        "packing.length",
        "ids.packed",
        "embedded",
        "normed.unpacked",  # for all three of its readers
        "context.packed",
        "y.unpacked",
    ]
    assert [str(size) for size in node_named(packed, "total").outputs[0].shape or ()] == ["1", "packing.tokens", "3"]
    assert [str(size) for size in packed.graph.outputs[0].shape or ()] == ["b", "s", "3"]
    assert packed.graph.outputs[0].dtype == ir.DataType.FLOAT


def test_a_context_of_several_readers_is_gathered_once() -> None:
    text = LAYER.replace("Add(projected, bias)", "Mul(projected, also)").replace(
        "projected =", "also = MatMul(context, square)\n projected ="
    )
    plain = model_from_text(graph(f"{text} y = Gelu(total)"))
    packed = applied(plain, PackTokens)
    given = feeds(KINDS["none"])

    assert count(packed, PackTokens) == 1
    assert Counter(node.name for node in packed.graph)["context.packed"] == 1
    assert np.abs(run(packed, given)["y"] - run(plain, given)["y"]).max() <= 1e-6


def test_an_output_that_is_read_on_keeps_its_name_and_its_place() -> None:
    plain = model_from_text(graph(f"{LAYER} y = Gelu(total)", outputs="float[b, s, 3] normed, float[b, s, 3] y"))
    packed = applied(plain, PackTokens)
    given = feeds(KINDS["right"])
    at = computed(given["attention_mask"])
    found, expected = run(packed, given), run(plain, given)

    assert list(found) == ["normed", "y"]
    assert all(np.abs(found[name][at] - expected[name][at]).max() <= 1e-6 for name in found)


def test_the_first_rows_are_read_where_they_are_padding() -> None:
    plain = model_from_text(graph(f"{LAYER} y = Gather<axis = 1>(total, place)", outputs="float[b, 3] y"))
    packed = applied(plain, PackTokens)
    given = feeds(KINDS["left"])

    assert count(packed, PackTokens) == 1
    assert np.abs(run(packed, given)["y"] - run(plain, given)["y"]).max() <= 1e-6


def test_a_slice_of_sizes_picks_no_rows() -> None:
    plain = model_from_text(graph(f"{LAYER} y = Slice(total, zero, two, last)", outputs="float[b, s, 2] y"))
    packed = applied(plain, PackTokens)
    given = feeds(KINDS["right"])
    at = computed(given["attention_mask"])

    assert count(packed, PackTokens) == 1
    assert np.abs(run(packed, given)["y"][at] - run(plain, given)["y"][at]).max() <= 1e-6


TIED = f"{LAYER} all = Transpose<perm = [1, 0]>(table) y = MatMul(total, all)"


def test_a_projection_onto_the_embeddings_is_packed() -> None:
    packed = applied(model_from_text(graph(TIED, outputs="float[b, s, 7] y")), PackTokens)

    assert count(packed, PackTokens) == 1
    assert [str(size) for size in node_named(packed, "y").outputs[0].shape or ()] == ["1", "packing.tokens", "7"]


# -- what stays as it is ---------------------------------------------------------------------------------------------

IF = """
    some = ReduceMax<keepdims = 0>(seen)
    y = If(some) <
        then_branch = a () => (float[b, s, 3] then) { then = Identity(total) },
        else_branch = c () => (float[b, s, 3] otherwise) { otherwise = Neg(total) }
    >
"""
REFUSED = {
    "no mask": (
        graph(GIVEN.replace("attention_mask", "keep"), inputs=INPUTS.replace("attention_mask", "keep")),
        NO_MASK,
    ),
    "a mask of one axis": (
        graph("y = Gather(table, attention_mask)", inputs="int64[s] attention_mask", outputs="float[s, 3] y"),
        NO_MASK,
    ),
    "a cache": (
        graph(GIVEN, inputs=f"{INPUTS}, float[b, p, 3] past_key_values__0__key"),
        PackTokens.unless[CACHE],
    ),
    "other rows": (
        graph(f"{LAYER} y = Gather<axis = 1>(total, second)", outputs="float[b, 3] y"),
        READS_PADDING.format(node="y"),
    ),
    "rows that are given": (
        graph(f"{LAYER} y = Gather<axis = 1>(total, n)", inputs=f"{INPUTS}, int64[n] n", outputs="float[b, n, 3] y"),
        READS_PADDING.format(node="y"),
    ),
    "a slice of rows": (
        graph(f"{LAYER} y = Slice(total, zero, two, axis)", outputs="float[b, n, 3] y"),
        READS_PADDING.format(node="y"),
    ),
    "rows of places": (
        graph(f"{LAYER} y = GatherND(total, n)", inputs=f"{INPUTS}, int64[n, 2] n", outputs="float[n, 3] y"),
        READS_PADDING.format(node="y"),
    ),
    "fixed sizes": (
        graph(GIVEN, inputs="int64[2, 4] ids, int64[2, 4] attention_mask", outputs="float[2, 4, 3] y"),
        NO_NAMES,
    ),
    "a graph inside": (graph(f"{LAYER} {IF}"), INNER_GRAPH.format(node="y")),
    "no attention": (graph("y = Gather(table, ids)"), NO_CONTEXT),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_graph_that_is_not_understood_stays_as_it_is(name: str) -> None:
    text, reason = REFUSED[name]
    plain = model_from_text(text)
    packed = applied(plain, PackTokens)

    assert reasons(packed, PackTokens) == [reason]
    assert count(packed, PackTokens) == 0
    assert ir.to_proto(packed.graph) == ir.to_proto(plain.graph)


def test_an_operator_of_that_name_from_elsewhere_stays_as_it_is() -> None:
    plain = model_from_text(graph(GIVEN))
    for node in plain.graph:
        node.domain = "elsewhere" if node.op_type == "MatMul" else ""
    packed = applied(plain, PackTokens)

    assert reasons(packed, PackTokens) == [NO_CONTEXT]
    assert operators(packed) == operators(plain)


def test_a_packed_graph_is_not_packed_again() -> None:
    packed = applied(model_from_text(graph(GIVEN)), PackTokens)
    again = applied(packed, PackTokens)

    assert reasons(again, PackTokens) == [NO_CONTEXT]
    assert ir.to_proto(again.graph) == ir.to_proto(packed.graph)


LEFT_ALONE = {
    "one row for all texts": "also = Gather(table, others) y = Add(total, also)",
    "a norm over two axes": "y = LayerNormalization<axis = 1>(total, wide)",
    "sums over texts": "also = ReduceSum<keepdims = 1>(total, axis) y = Add(total, also)",
}
MORE = f"{INPUTS}, int64[1, s] others, float[s, 3] wide"


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_an_operator_that_takes_more_than_tokens_gets_all_places(name: str) -> None:
    plain = model_from_text(graph(f"{LAYER} {LEFT_ALONE[name]}", inputs=MORE))
    packed = applied(plain, PackTokens)
    given = feeds(KINDS["none"]) | {"others": np.array([[3, 1, 4, 1]])}
    given["wide"] = np.linspace(-1, 2, 12, dtype=np.float32).reshape(4, 3)
    given = {str(value.name): given[str(value.name)] for value in plain.graph.inputs}

    assert count(packed, PackTokens) == 1
    assert np.abs(run(packed, given)["y"] - run(plain, given)["y"]).max() <= 1e-6


def test_what_is_not_over_tokens_is_not_packed() -> None:
    plain = model_from_text(graph(f"{GIVEN} z = Cast<to = 1>(ids)", outputs="float[b, s, 3] y, float[b, s] z"))
    packed = applied(plain, PackTokens)

    assert [str(size) for size in node_named(packed, "z").outputs[0].shape or ()] == ["b", "s"]
    assert [str(size) for size in node_named(packed, "scores").outputs[0].shape or ()] == ["b", "s", "s"]
    assert "scores" in operators_of_inputs(packed, "masked")


def operators_of_inputs(model: ir.Model, name: str) -> list[str]:
    return [str(value.name) for value in node_named(model, name).inputs if value is not None]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (GraphTraits(layers=12), 12),
        (GraphTraits(layers=12, features=frozenset({FIRST_TOKEN})), 11),
        (GraphTraits(layers=12, features=frozenset({FIRST_TOKEN, HIDDEN_STATES})), 12),
        (GraphTraits(layers=12, features=frozenset({CACHE})), 0),
        (GraphTraits(layers=12, features=frozenset({LAST_TOKEN})), 0),
        (GraphTraits(layers=12, cross_attention=True), 24),
        (GraphTraits(layers=0), 0),
    ],
)
def test_a_context_of_each_layer_is_expected(network: GraphTraits, expected: int) -> None:
    assert PackTokens().expected(network) == expected


def test_operators_are_those_of_onnx() -> None:
    plain = model_from_text(graph(GIVEN))
    packed = applied(plain, PackTokens)

    assert {node.domain for node in packed.graph} == {""}
    assert set(operators(packed)) - set(operators(plain)) == {
        "ReduceSum", "Equal", "Shape", "Range", "Or", "Reshape", "NonZero", "CumSum", "Sub",
    }  # fmt: skip
