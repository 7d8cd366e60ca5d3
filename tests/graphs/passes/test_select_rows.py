"""Gather(LN(x + FFN(...)), rows) -> LN(Gather(x, rows) + FFN(...))."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.emulate import rounding_copy
from rpln_graphs.passes.fold_norm_affine import FoldNormAffine
from rpln_graphs.passes.fold_query_scale import FoldQueryScale
from rpln_graphs.passes.fold_token_types import FoldTokenTypes
from rpln_graphs.passes.rescale_residual import SHIFT_KEY
from rpln_graphs.passes.select_rows import GIVEN_OUT, READ_WHOLE, ROWS_OF_ALL_TEXTS, SECOND_OUTPUT, TWO_AXES, SelectRows
from rpln_graphs.recipes import RECIPES, apply_recipe
from rpln_graphs.rewriting.base import Context, counts_from_model, refusals_from_model
from rpln_graphs.rewriting.initializers import scale_initializer
from rpln_graphs.rewriting.rowwise import (
    COMPUTED_SHAPE,
    OVER_ROWS,
    ROWS_LOST,
    UNKNOWN_BROADCAST,
    UNKNOWN_OPERATOR,
    UNKNOWN_SHAPE,
)
from rpln_graphs.rewriting.traits import FIRST_TOKEN, HIDDEN_STATES, LAST_TOKEN, MASKED_TOKENS, GraphTraits
from rpln_graphs.trace import DEFAULT_OPSET
from rpln_runtime.tasks import LOGITS_AT_POSITIONS, MASKED_LOGITS, MASKED_POSITIONS, TASKS
from tests.graphs.conftest import Traced
from tests.graphs.networks import Network, copied, tiny_model, trace_task, trace_variant
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run, runner

TOLERANCE = 1e-5
LAYER = """
    x = Add(embedded, shift)
    normed = LayerNormalization(x, gamma)
    query = MatMul(normed, left)
    key = MatMul(normed, right)
    turned = Transpose<perm = [0, 2, 1]>(key)
    scores = MatMul(query, turned)
    hidden = Add(scores, mask)
    weights = Softmax(hidden)
    context = MatMul(weights, normed)
    attended = Add(x, context)
    inner = MatMul(attended, left)
    bent = Tanh(inner)
    y = Add(attended, bent)
    final = LayerNormalization(y, gamma)
"""
"""A layer whose residual stream is `x`: [batch, sequence, 4]. Its head reads as values what its keys are made of."""

FIRST = "first = Gather<axis = 1>(final, zero)"
SQUARE = "wide = MatMul(final, turned) high = Transpose<perm = [0, 2, 1]>(wide)"
LAST = "first = Slice(final, minus_one, most, one)"
CONSTANTS = "int64 zero = {0}, int64[1] minus_one = {-1}, int64[1] most = {9223372036854775807}, int64[1] one = {1}"


def layer(
    *,
    head: str = FIRST,
    outputs: Sequence[str] = ("float[batch, 4] first",),
    mask: str = "batch, 1, sequence",
    constants: str = CONSTANTS,
    inputs: str = "",
) -> ir.Model:
    """Return the graph of LAYER and `head`: embedded [batch, sequence, 4], mask and `inputs` -> `outputs`."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> str:
        numbers = ", ".join(f"{number:.6f}" for number in rng.standard_normal(shape).ravel())
        return f"float[{', '.join(map(str, shape))}] {name} = {{{numbers}}}"

    weights = [weight("gamma", 4), weight("shift", 4), weight("left", 4, 4), weight("right", 4, 4), constants]
    inputs = f"float[batch, sequence, 4] embedded, float[{mask}] mask{inputs}"
    return model_from_text(f"layer ({inputs}) => ({', '.join(outputs)}) <{', '.join(weights)}> {{ {LAYER} {head} }}")


def feeds(model: ir.Model, *, batch: int = 3, sequence: int = 5) -> Arrays:
    rng, sizes = np.random.default_rng(1), {"batch": batch, "sequence": sequence}
    return {
        value.name or "": rng.standard_normal(
            [size if isinstance(size, int) else sizes[str(size)] for size in value.shape]
        ).astype(np.float32)
        for value in model.graph.inputs
        if value.shape is not None
    }


def count(model: ir.Model) -> int:
    """Apply the pass, and return what it counted."""
    SelectRows()(model)
    return counts_from_model(model)["SelectRows"]


def shapes(model: ir.Model) -> dict[str, str]:
    return {value.name or "": str(value.shape) for node in model.graph for value in node.outputs}


def reasons(model: ir.Model) -> list[str]:
    return [refusal.reason for refusal in refusals_from_model(model)["SelectRows"]]


# -- matches ---------------------------------------------------------------------------------------------------------


def test_the_first_row_is_picked_before_the_query_and_of_the_stream() -> None:
    model = layer()
    before = shapes(model)

    assert count(model) == 1
    rows = [node for node in model.graph if node.op_type == "Gather"]
    assert [(node.inputs[0].name, node.outputs[0].name) for node in rows if node.inputs[0]] == [
        ("normed", "normed.rows"),
        ("x", "x.rows"),
    ]
    whole = {"x", "normed", "key", "turned"}
    single = {"query", "context", "attended", "inner", "bent", "y", "final"}
    assert {name: shape for name, shape in shapes(model).items() if name in {*whole, *single, "scores", "weights"}} == {
        **{name: before[name] for name in whole},
        **dict.fromkeys(single, "[batch,1,4]"),
        **dict.fromkeys(("scores", "weights"), "[batch,1,sequence]"),
    }
    assert (node_named(model, "first").op_type, shapes(model)["first"]) == ("Squeeze", "[batch,4]")


@pytest.mark.parametrize("sequence", [1, 2, 5])
@pytest.mark.parametrize(
    "mask", ["batch, 1, sequence", "batch, sequence, sequence", "sequence", "1, sequence, sequence"]
)
@pytest.mark.parametrize(
    ("head", "outputs"),
    [
        (FIRST, "float[batch, 4] first"),
        ("first = Gather<axis = -2>(final, minus_one)", "float[batch, 1, 4] first"),
        ("first = Gather<axis = 1>(final, some)", "float[batch, 3, 4] first"),
        (LAST, "float[batch, 1, 4] first"),
        ("first = Slice(final, zeros, minus_one, one, two)", "float[batch, odd, 4] first"),
        (f"{LAST} doubled = Add(first, first)", "float[batch, 1, 4] doubled"),
    ],
)
def test_outputs_are_those_of_all_rows(head: str, outputs: str, mask: str, sequence: int) -> None:
    extra = "int64[3] some = {0, -1, 0}, int64[1] zeros = {0}, int64[1] two = {2}"
    model = layer(head=head, outputs=[outputs], mask=mask, constants=f"{CONSTANTS}, {extra}")
    given = feeds(model, sequence=sequence)
    expected = run(model, given)

    assert count(model) == 1
    found = run(model, given)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert_allclose(found[name], array, rtol=0, atol=1e-6)


def test_a_mask_over_queries_loses_its_other_rows() -> None:
    model = layer(mask="batch, sequence, sequence")

    assert count(model) == 1
    assert shapes(model)["mask.rows"] == "[batch,1,sequence]"


def test_a_mask_over_keys_stays_as_it_is() -> None:
    model = layer(mask="batch, 1, sequence")

    assert count(model) == 1
    assert "mask.rows" not in shapes(model)


def test_weights_that_are_an_output_are_whole_and_the_rest_is_not() -> None:
    model = layer(outputs=["float[batch, 4] first", "float[batch, sequence, sequence] weights"])
    given = feeds(model)
    expected = run(model, given)

    assert count(model) == 1
    assert (shapes(model)["weights"], shapes(model)["context"]) == ("[batch,sequence,sequence]", "[batch,1,4]")
    for name, array in run(model, given).items():
        assert_allclose(array, expected[name], rtol=0, atol=1e-6)


def test_a_second_run_changes_nothing() -> None:
    model = layer()
    count(model)
    once = operators(model)

    assert count(model) == 0
    assert operators(model) == once


def test_names_that_are_taken_are_not_taken_twice() -> None:
    model = layer(
        outputs=["float[batch, 4] first", "float[batch, sequence, 4] x__rows"], head=f"{FIRST} x__rows = Neg(x)"
    )
    given = feeds(model)
    expected = run(model, given)

    assert count(model) == 1
    assert_allclose(run(model, given)["first"], expected["first"], rtol=0, atol=1e-6)


# -- rows of each text, and rows of the batch ------------------------------------------------------------------------

COLUMN = "column = Unsqueeze(places, two)"
EXPANDED = f"{COLUMN} whole = Expand(column, wide) first = GatherElements<axis = 1>(final, whole)"
BY_TEXT = f"{COLUMN} first = GatherND<batch_dims = 1>(final, column)"
LISTED = "first = GatherND(final, places)"
MORE_CONSTANTS = f"{CONSTANTS}, int64[1] two = {{2}}, int64[3] wide = {{1, 1, 4}}"
PLACES: dict[str, tuple[str, str, list[Any]]] = {
    EXPANDED: ("batch, masks", "batch, masks, 4", [[[0, 3], [4, 4], [-1, 0]], [[2], [2], [2]], [[], [], []]]),
    BY_TEXT: ("batch, masks", "batch, masks, 4", [[[0, 3], [4, 4], [-1, 0]], [[], [], []]]),
    LISTED: ("tokens, 2", "tokens, 4", [[[0, 3], [0, 4], [2, 0], [2, 0]], [[1, 1]], []]),
}
"""Heads, with the shapes of their input `places` and of their output, and values for `places`."""


def selecting(head: str, *, mask: str = "batch, 1, sequence", before: str = "") -> ir.Model:
    places, result, _ = PLACES[head]
    return layer(
        head=before + head,
        outputs=[f"float[{result}] first"],
        mask=mask,
        constants=MORE_CONSTANTS,
        inputs=f", int64[{places}] places",
    )


@pytest.mark.parametrize("mask", ["batch, 1, sequence", "batch, sequence, sequence", "sequence, sequence", "sequence"])
@pytest.mark.parametrize("head", PLACES)
def test_rows_that_differ_from_text_to_text_are_those_of_all_rows(head: str, mask: str) -> None:
    model = selecting(head, mask=mask)
    before = runner(model)
    assert count(model) == 1
    after = runner(model)

    for places in PLACES[head][2]:
        shape = [-1, 2] if head == LISTED else [3, -1]
        given = feeds(layer(mask=mask)) | {"places": np.array(places, np.int64).reshape(shape if places else [0, 2])}
        if head != LISTED and not np.size(places):
            given["places"] = np.zeros((3, 0), np.int64)
        expected, found = before(given)["first"], after(given)["first"]
        assert found.shape == expected.shape
        assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("head", "mask", "selected"),
    [
        (EXPANDED, "batch, 1, sequence", {"normed", "x"}),
        (BY_TEXT, "batch, sequence, sequence", {"normed", "x", "mask"}),
        (BY_TEXT, "sequence, sequence", {"hidden", "x"}),  # the mask has the rows of all texts at once
        (LISTED, "batch, 1, sequence", {"context", "x"}),  # a list does not say which text's keys belong to a row
    ],
)
def test_rows_that_differ_from_text_to_text_are_picked_where_texts_are_told_apart(
    head: str, mask: str, selected: set[str]
) -> None:
    model = selecting(head, mask=mask)

    assert count(model) == 1
    picked = [node for node in model.graph if node.op_type == "GatherND"]
    assert {node.inputs[0].name for node in picked if node.inputs[0]} == selected
    assert "GatherElements" not in operators(model)
    assert "Expand" not in operators(model)
    assert shapes(model)["y"] == ("[1,tokens,4]" if head == LISTED else "[batch,masks,4]")


def test_rows_of_each_text_do_not_pass_a_table_for_all_of_them() -> None:
    model = selecting(BY_TEXT, before="line = Gather<axis = 0>(embedded, zero) placed = Add(final, line) ")
    node_named(model, "first").replace_input_with(0, node_named(model, "placed").outputs[0])

    assert count(model) == 0
    assert reasons(model) == [ROWS_OF_ALL_TEXTS.format(node="placed", value="line")]


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "outputs", "reason"),
    [
        (FIRST, ["float[batch, sequence, 4] final"], GIVEN_OUT.format(value="final")),
        (FIRST, ["float[batch, sequence, 4] y"], GIVEN_OUT.format(value="y")),
        (
            f"{FIRST} other = Neg(final)",
            ["float[batch, sequence, 4] other"],
            READ_WHOLE.format(value="final", node="other"),
        ),
        (
            "summed = CumSum(final, one) first = Gather<axis = 1>(summed, zero)",
            [],
            UNKNOWN_OPERATOR.format(operator="CumSum", node="summed"),
        ),
        ("soft = Softmax<axis = 1>(final) first = Gather<axis = 1>(soft, zero)", [], OVER_ROWS.format(node="soft")),
        (
            "shape = Shape(final) same = Reshape(final, shape) first = Gather<axis = 1>(same, zero)",
            [],
            COMPUTED_SHAPE.format(node="same"),
        ),
        ("cut = Reshape(final, six) first = Gather<axis = 1>(cut, zero)", [], ROWS_LOST.format(node="cut")),
        (
            "way, mean = LayerNormalization(final, gamma) first = Gather<axis = 1>(way, zero)",
            ["float[batch, sequence, 1] mean"],
            SECOND_OUTPUT.format(node="way"),
        ),
        (
            "odd = Slice(embedded, one, most, one) both = Add(final, odd) first = Gather<axis = 1>(both, zero)",
            [],
            UNKNOWN_BROADCAST.format(node="both", value="final"),
        ),
        (
            f"{SQUARE} both = Add(wide, high) first = Gather<axis = 1>(both, zero)",
            [],
            TWO_AXES.format(node="high", value="wide"),
        ),
    ],
)
def test_the_node_that_prevents_a_selection_is_named(head: str, outputs: Sequence[str], reason: str) -> None:
    model = layer(
        head=head,
        outputs=["float[batch, size] first", *outputs],
        constants=f"{CONSTANTS}, int64[3] six = {{-1, 6, 4}}",
    )
    before = str(ir.to_proto(model.graph))

    assert count(model) == 0
    assert reasons(model) == [reason]
    assert str(ir.to_proto(model.graph)) == before


def test_an_operator_of_another_domain_prevents_a_selection() -> None:
    model = layer(head="bend = Tanh(final) first = Gather<axis = 1>(bend, zero)")
    node_named(model, "bend").domain = "com.example"

    assert count(model) == 0
    assert reasons(model) == [UNKNOWN_OPERATOR.format(operator="com.example.Tanh", node="bend")]


def test_an_unknown_shape_prevents_a_selection() -> None:
    model = layer(head="bend = Tanh(final) raised = Add(bend, gamma) first = Gather<axis = 1>(raised, zero)")
    node_named(model, "bend").outputs[0].shape = None

    assert count(model) == 0
    assert reasons(model) == [UNKNOWN_SHAPE.format(value="bend")]


@pytest.mark.parametrize(
    ("head", "output"),
    [
        ("first = Gather<axis = 2>(final, zero)", "batch, sequence"),
        ("first = Gather<axis = 0>(final, zero)", "sequence, 4"),
        ("first = Slice(final, minus_one, most, two)", "batch, sequence, one"),
        ("first = Slice(final, minus_one, most)", "one, sequence, 4"),
        (
            "index = ArgMax<axis = 1, keepdims = 0>(embedded) first = Gather<axis = 1>(final, index)",
            "batch, batch, 4, 4",
        ),
    ],
)
def test_other_selections_are_ignored(head: str, output: str) -> None:
    """They are selections along another axis, or of other rows for each text."""
    model = layer(head=head, outputs=[f"float[{output}] first"], constants=f"{CONSTANTS}, int64[1] two = {{2}}")
    assert shapes(model)["final"] == "[batch,sequence,4]"

    assert count(model) == 0
    assert reasons(model) == []


def test_there_is_nothing_to_select_of_one_row() -> None:
    model = layer(head="row = Gather<axis = 1>(final, minus_one) first = Gather<axis = 1>(row, zero)")
    first = node_named(model, "first")

    assert count(model) == 1  # the selection that makes the row
    assert reasons(model) == []
    assert first in model.graph


# -- traced networks -------------------------------------------------------------------------------------------------


trace = cache(trace_task)
MASK = 4
MASKED_LM = TASKS["fill-mask"]
BY_MASK = {
    "masked": replace(MASKED_LM, outputs=(MASKED_LOGITS,)),
    "positions": replace(MASKED_LM, outputs=(LOGITS_AT_POSITIONS,), inputs=(*MASKED_LM.inputs, MASKED_POSITIONS)),
}
"""Fill-mask as it is exported with --logits."""


def trace_masked(which: str, *, seed: int = 0, opset: int = DEFAULT_OPSET, **fields: Any) -> Network:
    """Return the graph of a masked LM that gives logits of mask tokens only."""
    model = tiny_model(MASKED_LM, seed=seed, **fields)
    model.config.mask_token_id = MASK
    task = BY_MASK[which]
    names = [*(tensor.name for tensor in task.inputs), "token_type_ids"]
    return trace_variant(model, task, "full", inputs=names, opset=opset)


def check(network: Network, expected: int, *, tolerance: float = TOLERANCE) -> ir.Model:
    """Check that the pass counts `expected` in the network's graph and keeps its outputs; return the new graph."""
    graph = copied(network.graph)
    assert count(graph) == expected, reasons(graph)
    compute = runner(graph)
    for case in network.stress_cases():
        found = compute(case.feeds)
        for name, array in network.eager(case.feeds).items():
            assert_allclose(found[name], array, rtol=0, atol=tolerance, err_msg=f"{name}, {case.name}")
    return graph


def rows_in(graph: ir.Model) -> dict[str, Any]:
    """Return how many rows go through each projection."""
    return {
        (value.name or "").removesuffix(".weight.T"): node.outputs[0].shape[1]
        for node in graph.graph
        for value in node.inputs
        if node.op_type == "MatMul" and value is not None and value.is_initializer() and node.outputs[0].shape
    }


@pytest.mark.parametrize("name", ["text-classification", "multiple-choice"])
def test_a_head_of_the_first_token_leaves_keys_and_values_to_the_last_layer(traced: Traced, name: str) -> None:
    rows = rows_in(check(traced(name), 1))

    last = "encoder.layer.1"
    narrow = {"attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"}
    assert {path for path, size in rows.items() if size == 1} == {f"{last}.{path}" for path in narrow}
    assert len(rows) == 2 * 6


@pytest.mark.parametrize("name", ["feature-extraction", "fill-mask", "token-classification", "question-answering"])
def test_a_head_of_all_tokens_has_nothing_to_select(traced: Traced, name: str) -> None:
    graph = copied(traced(name).graph)
    before = str(ir.to_proto(graph.graph))

    assert count(graph) == 0
    assert reasons(graph) == []
    assert str(ir.to_proto(graph.graph)) == before


@pytest.mark.parametrize(
    ("name", "variant", "narrow"),
    [
        ("text-generation", "with-past", 4 + 1),  # query, projection and both halves of FFN; one of the head's own
        ("text2text-generation", "prefill", 6 + 1),  # also query and projection of cross-attention
    ],
)
def test_a_decoder_computes_its_last_row_and_caches_them_all(name: str, variant: str, narrow: int) -> None:
    graph = check(trace(name, variant=variant), 1)

    assert list(rows_in(graph).values()).count(1) == narrow
    tokens = [str(value.shape[2]) for value in graph.graph.outputs if value.shape and "present" in (value.name or "")]
    assert set(tokens) == ({"past_sequence + sequence"} if "past" in variant else {"sequence"} if tokens else set())


def test_all_logits_need_all_rows() -> None:
    check(trace_task("text-generation", all_logits=True), 0)


def test_hidden_states_as_an_output_are_the_reason_for_a_refusal() -> None:
    graph = check(trace_task("text-classification", outputs=("hidden_states",)), 0)

    assert reasons(graph) == [GIVEN_OUT.format(value="hidden_states.2")]


def test_attentions_as_an_output_stay_whole() -> None:
    graph = check(trace_task("text-classification", outputs=("attentions",)), 1)

    assert "encoder.layer.1.attention.self.query" not in {path for path, size in rows_in(graph).items() if size == 1}


def test_the_pooled_output_beside_the_whole_one_is_refused() -> None:
    graph = check(trace_task("feature-extraction", outputs=("pooler_output",)), 0)

    assert reasons(graph) == [GIVEN_OUT.format(value="last_hidden_state")]


@pytest.mark.parametrize(
    ("name", "variant", "kind"),
    [("text-classification", "full", "relative_key_query"), ("text-generation", "with-past", "relative_key")],
)
def test_relative_distances_are_looked_up_for_the_selected_rows(name: str, variant: str, kind: str) -> None:
    graph = check(trace_task(name, variant=variant, position_embedding_type=kind), 1)

    table = "encoder.layer.1.attention.self.distance_embedding.Gather"
    assert shapes(graph)[table].startswith("[1,")


@pytest.mark.parametrize("kind", ["absolute", "relative_key"])
@pytest.mark.parametrize("which", ["masked", "positions"])
def test_a_masked_lm_computes_the_rows_of_its_masks(which: str, kind: str) -> None:
    rows = rows_in(check(trace_masked(which, position_embedding_type=kind), 1))

    narrow = {"attention.output.dense", "intermediate.dense", "output.dense"}
    if which == "positions" and kind == "absolute":
        narrow.add("attention.self.query")
    # Rows listed over the batch are [1, masked_tokens, hidden] in the last layer and [masked_tokens, hidden] after it.
    size = {"masked": "masked_tokens", "positions": "masks"}[which]
    last = {path.removeprefix("encoder.layer.1.") for path, count in rows.items() if str(count) == size}
    assert {path for path in last if "lm_head" not in path} == narrow


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ["text-classification", "multiple-choice"])
def test_other_folds_may_come_before_and_after(traced: Traced, name: str, *, first: bool) -> None:
    graph = copied(traced(name).graph)
    folds = [FoldTokenTypes, FoldQueryScale, FoldNormAffine]
    for kind in (SelectRows, *folds) if first else (*folds, SelectRows):
        kind.configure(graph, Context())(graph)

    assert counts_from_model(graph)["SelectRows"] == 1
    assert counts_from_model(graph)["FoldQueryScale"] == 2
    compute = runner(graph)
    for case in traced(name).stress_cases():
        found, expected = compute(case.feeds)["logits"], traced(name).eager(case.feeds)["logits"]
        assert_allclose(found, expected, rtol=0, atol=TOLERANCE, err_msg=case.name)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({MASKED_TOKENS}, 1),
        ({FIRST_TOKEN}, 1),
        ({LAST_TOKEN}, 1),
        ({LAST_TOKEN, HIDDEN_STATES}, 0),
        (set(), 0),
    ],
)
def test_the_formula_tells_the_count(features: set[str], expected: int) -> None:
    assert SelectRows().expected(GraphTraits(layers=7, features=frozenset(features))) == expected


# -- precision -------------------------------------------------------------------------------------------------------

SHIFT = 14
"""The residual stream of the networks below is multiplied by 2 to the power of this. It reaches 1e5, more than fp16."""


def stretched(graph: ir.Model) -> ir.Model:
    """Return the graph with all that is added to its residual stream enlarged. LayerNorms take the factor out again."""
    copy = copied(graph)
    for name, value in copy.graph.initializers.items():
        if name.endswith((".output.dense.weight.T", ".output.dense.bias")) or name.startswith("embeddings.LayerNorm."):
            scale_initializer(value, 2.0**SHIFT)
    return copy


@pytest.mark.parametrize("recipe", ["fp16", "bf16"])
@pytest.mark.parametrize(("name", "variant"), [("text-classification", "full"), ("text-generation", "with-past")])
def test_precision_passes_know_a_graph_of_selected_rows(name: str, variant: str, recipe: str) -> None:
    network = trace(name, variant=variant)
    original = stretched(network.graph)
    graph = copied(original)
    assert count(graph) == 1
    cases = network.stress_cases()
    batches = [case.feeds for case in cases]
    apply_recipe(graph, RECIPES[recipe], GraphTraits(layers=2), measure=lambda model: measure_ranges(model, batches))

    assert float(graph.metadata_props.get(SHIFT_KEY, "0")) > 0 or recipe == "bf16"
    reference, compute = runner(original), runner(rounding_copy(graph))
    logits = [(reference(feeds)["logits"], compute(feeds)["logits"]) for feeds in batches]
    scale = max(float(np.abs(expected).max()) for expected, _ in logits)
    assert max(float(np.abs(found - expected).max()) for expected, found in logits) < 2e-2 * scale


# -- networks that nobody thought of ---------------------------------------------------------------------------------

RANDOM_TOLERANCE = 1e-4
"""The tolerance of the fp32 recipe. Some of these networks amplify small differences."""
SELECTING = ["text-classification", "multiple-choice", "text-generation", "text2text-generation"]
SECONDS_EACH = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a task whose head selects rows, one of its graphs, fields of a config, and an opset."""
    heads = draw(st.sampled_from([1, 2, 3, 4]))
    name = draw(st.sampled_from([*SELECTING, *BY_MASK]))
    task = TASKS.get(name, MASKED_LM)
    outputs = [tensor.name for tensor in task.optional_outputs if "attentions" in tensor.name]
    return {
        "name": name,
        "variant": draw(st.sampled_from(task.variants)),
        "outputs": draw(st.sampled_from([(), tuple(outputs)])),
        "opset": draw(st.integers(18, 23)),
        "seed": draw(st.integers(0, 99)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.sampled_from([4, 6, 10, 16])),
        "intermediate_size": draw(st.sampled_from([1, 20, 50])),
        "hidden_act": draw(st.sampled_from(["gelu", "relu", "silu", "gelu_new"])),
        "position_embedding_type": draw(st.sampled_from(["absolute", "relative_key", "relative_key_query"])),
        "type_vocab_size": draw(st.integers(1, 3)),
        "tie_word_embeddings": draw(st.booleans()),
    }


def traced_network(name: str, *, variant: str, outputs: Sequence[str], **fields: Any) -> Network:
    if name in BY_MASK:
        return trace_masked(name, **fields)
    return trace_task(name, variant=variant, outputs=outputs, **fields)


@pytest.mark.full
@settings(SECONDS_EACH, max_examples=3, derandomize=True)
@given(networks())
def test_a_few_networks(fields: dict[str, Any]) -> None:
    check(traced_network(**fields), 1, tolerance=RANDOM_TOLERANCE)


@pytest.mark.fuzz
@settings(SECONDS_EACH, max_examples=12)
@given(networks())
def test_many_networks(fields: dict[str, Any]) -> None:
    check(traced_network(**fields), 1, tolerance=RANDOM_TOLERANCE)
