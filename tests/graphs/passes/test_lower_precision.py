"""A float graph becomes a strongly typed fp16 or bf16 graph, with a Cast at each boundary."""

import json
from collections import defaultdict
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rpln_graphs.emulate import rounding_copy
from rpln_graphs.passes.lower_precision import KEPT_KEY, REACH_KEY, LowerPrecision
from rpln_graphs.rewriting.base import Context, counts_from_model
from rpln_graphs.rewriting.ranges import Ranges
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.save import save_graph
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run, values_of

FLOAT, FLOAT16, BFLOAT16, INT64 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.INT64
SPACING = {FLOAT16: 2.0**-10, BFLOAT16: 2.0**-7}
"""The distance between 1 and the next number of the type."""
LOWER = pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16])

NETWORK = """
network (int64[rows] ids, int64[rows] mask, float[rows, 2] x) => (float[rows, 2] y, int64[rows] next_ids)
<
    float[3, 2] table = {0.1, 1, 2, 3, 4, 5},
    float[2, 2] weight = {1, 0.3, -1, 2},
    float[2] scale = {1, 1.5},
    float[2] shift = {0.25, -0.25},
    int64 one = {1},
    int64[1] last = {-1}
>
{
    next_ids = Add(ids, one)
    embedded = Gather(table, ids)
    total = Add(embedded, x)
    normed = LayerNormalization<epsilon = 0.001>(total, scale, shift)
    product = MatMul(normed, weight)
    columns = Unsqueeze(mask, last)
    keep = Cast<to = 1>(columns)
    kept = Mul(product, keep)
    probabilities = Softmax<axis = -1>(kept)
    y = Sub(probabilities, x)
}
"""
FEEDS: Arrays = {
    "ids": np.array([0, 2, 1]),
    "mask": np.array([1, 1, 0]),
    "x": np.array([[0.5, 1], [-1, 0.3], [2, 4]], dtype=np.float32),
}


def lowered(
    text: str, *, dtype: ir.DataType = FLOAT16, io_dtype: ir.DataType = FLOAT, ranges: Ranges | None = None
) -> ir.Model:
    model = model_from_text(text)
    LowerPrecision(dtype=dtype, io_dtype=io_dtype, ranges=ranges)(model)
    return model


def ranges_of(text: str, **reached: float) -> Ranges:
    """Return ranges in which every value reaches 1, except those that are given."""
    model = model_from_text(text)
    values = (*model.graph.inputs, *(value for node in model.graph for value in node.outputs))
    return {**dict.fromkeys([*model.graph.initializers, *(value.name or "" for value in values)], 1.0), **reached}


def computed_in(model: ir.Model) -> dict[str, ir.DataType | None]:
    """Return the type of each node's first output, without the casts that the pass made."""
    return {node.name or "": node.outputs[0].dtype for node in model.graph if not (node.name or "").endswith(".Cast")}


@LOWER
def test_all_that_is_float_is_lowered_and_integers_are_not(dtype: ir.DataType) -> None:
    model = lowered(NETWORK, dtype=dtype)

    assert computed_in(model) == {
        "next_ids": INT64,
        "embedded": dtype,
        "total": dtype,
        "normed": dtype,
        "product": dtype,
        "columns": INT64,
        "keep": dtype,
        "kept": dtype,
        "probabilities": FLOAT,  # Softmax computes in fp32
        "y": dtype,
    }
    assert node_named(model, "keep").attributes["to"].as_int() == dtype
    assert counts_from_model(model) == {"LowerPrecision": 7}


@LOWER
def test_weights_are_stored_in_the_lower_type(dtype: ir.DataType) -> None:
    initializers = lowered(NETWORK, dtype=dtype).graph.initializers
    numpy = np.dtype(np.float16 if dtype == FLOAT16 else ml_dtypes.bfloat16)

    assert {name: value.dtype for name, value in initializers.items()} == {
        **dict.fromkeys(["table", "weight", "scale", "shift"], dtype),
        **dict.fromkeys(["one", "last"], INT64),
    }
    assert values_of(initializers["table"]).dtype == numpy
    original = values_of(model_from_text(NETWORK).graph.initializers["table"])
    assert_array_equal(values_of(initializers["table"]), original.astype(numpy))


@LOWER
def test_the_model_that_was_cloned_stays_as_it_is(dtype: ir.DataType) -> None:
    """A clone's values share their types with the original's, which is rewritten once more, or run, after that."""
    model = model_from_text(NETWORK)
    before = ir.to_proto(model)
    LowerPrecision(dtype=dtype, io_dtype=dtype)(model.clone())

    assert ir.to_proto(model) == before


@LOWER
def test_inputs_and_outputs_keep_names_and_types_by_default(dtype: ir.DataType) -> None:
    graph = lowered(NETWORK, dtype=dtype).graph

    assert [(value.name, value.dtype) for value in graph.inputs] == [("ids", INT64), ("mask", INT64), ("x", FLOAT)]
    assert [(value.name, value.dtype) for value in graph.outputs] == [("y", FLOAT), ("next_ids", INT64)]
    assert [str(value.shape) for value in graph.outputs] == ["[rows,2]", "[rows]"]


def test_inputs_and_outputs_are_lowered_on_request() -> None:
    model = lowered(NETWORK, io_dtype=FLOAT16)

    assert [value.dtype for value in model.graph.inputs] == [INT64, INT64, FLOAT16]
    assert [(value.name, value.dtype) for value in model.graph.outputs] == [("y", FLOAT16), ("next_ids", INT64)]
    casts = [node.inputs[0] for node in model.graph if (node.name or "").endswith(".Cast")]
    assert [value and value.name for value in casts] == ["kept", "probabilities"]  # the casts around Softmax


def test_a_value_is_cast_once_for_all_its_readers() -> None:
    model = lowered(NETWORK)  # x has two readers

    assert [node.name for node in model.graph if (node.name or "").endswith(".Cast")] == [
        "x.float16.Cast",
        "kept.float.Cast",
        "probabilities.float16.Cast",
        "y.Cast",
    ]


@LOWER
@pytest.mark.parametrize("io_dtype", [FLOAT, FLOAT16])
@pytest.mark.parametrize("reached", [{}, {"product": 1e39}, {"table": 1e39}, {"y": 1e39}, {"x": 1e39}, {"keep": 1e39}])
def test_every_type_fits(dtype: ir.DataType, io_dtype: ir.DataType, reached: dict[str, float], tmp_path: Path) -> None:
    if io_dtype == FLOAT16 and dtype == BFLOAT16:
        io_dtype = BFLOAT16
    model = lowered(NETWORK, dtype=dtype, io_dtype=io_dtype, ranges=ranges_of(NETWORK, **reached))

    save_graph(model, tmp_path / "model.onnx")  # runs onnx's full checker


def test_what_leaves_the_range_stays_fp32_with_casts_around_it() -> None:
    model = lowered(NETWORK, ranges=ranges_of(NETWORK, product=8188.5))

    types = computed_in(model)
    assert [name for name, dtype in types.items() if dtype == FLOAT] == ["product", "kept", "probabilities"]
    assert [value and value.name for value in node_named(model, "product").inputs] == ["normed.float", "weight"]
    assert model.graph.initializers["weight"].dtype == FLOAT
    assert counts_from_model(model) == {"LowerPrecision": 5}


@pytest.mark.parametrize(
    ("dtype", "peak", "kept"),
    [
        (FLOAT16, 8188.0, False),  # an eighth of 65,504
        (FLOAT16, 8188.5, True),
        (BFLOAT16, 1e37, False),
        (BFLOAT16, 3.4e38, True),
        (FLOAT16, np.inf, True),
    ],
)
def test_the_range_has_headroom(dtype: ir.DataType, peak: float, kept: bool) -> None:
    model = lowered(NETWORK, dtype=dtype, ranges=ranges_of(NETWORK, embedded=peak))

    assert (node_named(model, "embedded").outputs[0].dtype == FLOAT) is kept


@pytest.mark.parametrize("value", ["normed", "weight", "product"])
def test_inputs_weights_and_outputs_of_a_node_count_alike(value: str) -> None:
    model = lowered(NETWORK, ranges=ranges_of(NETWORK, **{value: 1e5}))

    assert node_named(model, "product").outputs[0].dtype == FLOAT


def test_kept_products_are_named_with_their_reach() -> None:
    kept = lowered(NETWORK, ranges=ranges_of(NETWORK, product=1e5, embedded=1e6)).metadata_props[KEPT_KEY]

    assert json.loads(kept) == {"product": 1e5}  # the Gather is not a MatMul
    assert json.loads(lowered(NETWORK, ranges=ranges_of(NETWORK)).metadata_props[KEPT_KEY]) == {}


SHARED = """
shared (float[rows, 2] x) => (float[rows, 2] y, float[rows, 2] z)
<float[2] bias = {0.1, 3}, float[2] apart = {0.1, 3}>
{
    big = Mul(x, apart)
    z = Sub(big, bias)
    y = Add(x, bias)
}
"""


def test_a_weight_that_both_types_read_is_stored_once() -> None:
    model = lowered(SHARED, ranges=ranges_of(SHARED, big=1e5))

    assert {name: value.dtype for name, value in model.graph.initializers.items()} == {"bias": FLOAT16, "apart": FLOAT}
    assert [value and value.name for value in node_named(model, "z").inputs] == ["big", "bias.float"]
    outputs = run(model, {"x": np.array([[1, 2]], dtype=np.float32)})
    assert_allclose(outputs["y"], [[1.1, 5]], rtol=1e-3)
    assert_allclose(outputs["z"], [[0, 3]], atol=1e-4)


@LOWER
def test_results_differ_by_rounding_only(dtype: ir.DataType) -> None:
    exact = run(model_from_text(NETWORK), FEEDS)
    rounded = run(rounding_copy(lowered(NETWORK, dtype=dtype)), FEEDS)

    assert_array_equal(rounded["next_ids"], exact["next_ids"])
    largest = float(np.abs(exact["y"].astype(np.float64) - rounded["y"]).max())
    assert 0 < largest < 16 * SPACING[dtype]


def test_onnxruntime_runs_the_lowered_graph_as_it_is() -> None:
    exact = run(model_from_text(NETWORK), FEEDS)
    found = run(lowered(NETWORK), FEEDS)

    assert found["y"].dtype == np.float32
    assert_allclose(found["y"], exact["y"], atol=4e-3)


def test_values_that_the_lower_type_holds_are_unchanged() -> None:
    text = "g (float[2] x) => (float[2] y) <float[2] weight = {0.5, 3}> { a = Mul(x, weight) y = Add(a, x) }"
    feeds = {"x": np.array([4, -1.25], dtype=np.float32)}

    assert_array_equal(run(lowered(text), feeds)["y"], run(model_from_text(text), feeds)["y"])


def test_a_graph_of_integers_is_left_alone() -> None:
    model = model_from_text("g (int64[2] x) => (int64[2] y) { y = Add(x, x) }")
    result = LowerPrecision(dtype=FLOAT16)(model)

    assert not result.modified
    assert operators(model) == ["Add"]


def test_it_is_configured_by_the_recipe() -> None:
    model = model_from_text(NETWORK)
    context = Context(dtype=BFLOAT16, io_dtype=BFLOAT16, ranges=ranges_of(NETWORK))
    lowering = LowerPrecision.configure(model, context)

    assert (lowering.dtype, lowering.io_dtype, lowering.ranges) == (BFLOAT16, BFLOAT16, context.ranges)
    assert lowering.calibrated
    assert lowering.expected(GraphTraits(layers=1)) is None


# -- keys and values that decoder graphs hand on ---------------------------------------------------------------------


STEP = """
step (
    float[rows, past, 2] past_key_values__0__key,
    float[rows, new, 2] x,
    float[rows, memory, 2] cross_key_values__0__key
) => (float[rows, new, 2] y, float[rows, total, 2] present__0__key, float[rows, memory, 2] crossed)
<float[2, 2] weight = {1, 0.3, -1, 2}>
{
    y = MatMul(x, weight)
    present__0__key = Concat<axis = 1>(past_key_values__0__key, y)
    crossed = MatMul(cross_key_values__0__key, weight)
}
"""
PROMPT = """
prompt (float[rows, new, 2] x) => (float[rows, new, 2] y, float[rows, new, 2] present__0__key)
<float[2, 2] weight = {1, 0.3, -1, 2}>
{
    y = MatMul(x, weight)
    present__0__key = Neg(y)
}
"""
PAST, PRESENT, CROSSED = "past_key_values.0.key", "present.0.key", "cross_key_values.0.key"


def handed_on(model: ir.Model) -> dict[str | None, ir.DataType | None]:
    return {value.name: value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}


@LOWER
@pytest.mark.parametrize("io_dtype", [FLOAT, FLOAT16])
def test_a_cache_is_in_the_lower_type_whatever_inputs_and_outputs_are(
    dtype: ir.DataType, io_dtype: ir.DataType
) -> None:
    model = lowered(STEP, dtype=dtype, io_dtype=io_dtype, ranges=ranges_of(STEP))

    others = dict.fromkeys(["x", "y", "crossed"], io_dtype)
    assert handed_on(model) == {PAST: dtype, CROSSED: dtype, PRESENT: dtype, **others}


@pytest.mark.parametrize("io_dtype", [FLOAT, FLOAT16])
@pytest.mark.parametrize("text", [STEP, PROMPT], ids=["step", "prompt"])
def test_a_cache_that_leaves_the_range_is_fp32_in_every_graph(text: str, io_dtype: ir.DataType, tmp_path: Path) -> None:
    # A past that was empty when it was measured holds what the present of another step held.
    ranges = ranges_of(text, **{PAST: 0.0, PRESENT: 8188.5})
    model = lowered(text, io_dtype=io_dtype, ranges=ranges)

    types = handed_on(model)
    assert {types.get(name, FLOAT) for name in (PAST, PRESENT)} == {FLOAT}
    assert types.get(CROSSED, FLOAT16) == FLOAT16
    assert types["x"] == io_dtype
    save_graph(model, tmp_path / "model.onnx")


@LOWER
def test_a_memory_goes_by_its_own_range(dtype: ir.DataType) -> None:
    types = handed_on(lowered(STEP, dtype=dtype, ranges=ranges_of(STEP, **{CROSSED: 1e39})))

    assert (types[CROSSED], types[PAST], types[PRESENT]) == (FLOAT, dtype, dtype)


def test_a_cache_has_the_name_it_had() -> None:
    model = lowered(STEP, ranges=ranges_of(STEP, **{PRESENT: 1e5}))

    assert [value.name for value in model.graph.outputs] == ["y", PRESENT, "crossed"]
    assert [value.name for value in model.graph.inputs] == [PAST, "x", CROSSED]


def test_steps_over_a_cache_in_the_lower_type_differ_by_rounding_only() -> None:
    rng = np.random.default_rng(0)
    exact, rounded = model_from_text(STEP), lowered(STEP, ranges=ranges_of(STEP))
    feeds = {PAST: np.zeros((1, 0, 2)), "x": rng.standard_normal((1, 1, 2)), CROSSED: rng.standard_normal((1, 3, 2))}
    expected: Arrays = {name: array.astype(np.float32) for name, array in feeds.items()}
    found: Arrays = {name: array.astype(np.float32 if name == "x" else np.float16) for name, array in feeds.items()}
    for _ in range(3):
        outputs, others = run(exact, expected), run(rounded, found)
        expected[PAST], found[PAST] = outputs[PRESENT], others[PRESENT]

    assert found[PAST].dtype == np.float16
    assert found[PAST].shape == (1, 3, 2)
    assert_allclose(found[PAST], expected[PAST], rtol=4e-3)


def test_the_largest_value_in_the_lower_type_is_named_for_each_layer() -> None:
    model = model_from_text(NETWORK)
    names = {
        "total": "embeddings.Add",
        "normed": "encoder.layer.0.LayerNorm",
        "product": "encoder.layer.0.MatMul",
        "kept": "encoder.layer.11.Mul",
        "probabilities": "encoder.layer.11.Softmax",
    }
    for value in (value for node in model.graph for value in node.outputs):
        value.name = names.get(value.name or "", value.name)
    # The Softmax is computed in fp32, so that its 50 does not count.
    largest = {"embeddings.Add": 3.0, "encoder.layer.0.LayerNorm": 7.0, "encoder.layer.0.MatMul": 20.0}
    ranges = defaultdict(lambda: 1.0, {**largest, "encoder.layer.11.Softmax": 50.0})
    LowerPrecision(dtype=FLOAT16, ranges=ranges)(model)
    assert json.loads(model.metadata_props[REACH_KEY]) == {
        "embeddings": ["embeddings.Add", 3.0],
        "encoder.layer.0": ["encoder.layer.0.MatMul", 20.0],
        "encoder.layer.11": ["encoder.layer.11.Mul", 1.0],
    }
