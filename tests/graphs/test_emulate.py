"""An fp16 or bf16 graph becomes one that computes in fp32 and rounds to the lower type after every operator."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.emulate import rounding_copy
from tests.graphs.text_graphs import Arrays, model_from_text, operators, run, values_of

SPACING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The distance between 1 and the next number of the type."""
NUMPY = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
LOWER = pytest.mark.parametrize("dtype", list(NUMPY))

# Each line is one operator, and one rounding must follow it.
SMALL_GRAPH = """
small (float[rows, 3] x, float[rows, 3] y) => (float[rows, 3] z)
<float[3] bias = {0.1, 1000.7, -3.3}>
{
    x_lower = Cast<to = LOWER>(x)
    y_lower = Cast<to = LOWER>(y)
    bias_lower = Cast<to = LOWER>(bias)
    total = Add(x_lower, y_lower)
    product = Mul(total, y_lower)
    shifted = Sub(product, bias_lower)
    positive = Relu(shifted)
    z = Cast<to = 1>(positive)
}
"""
ADDITION = """
addition (float[1] x, float[1] y) => (float[1] z)
{
    x_lower = Cast<to = LOWER>(x)
    y_lower = Cast<to = LOWER>(y)
    total = Add(x_lower, y_lower)
    z = Cast<to = 1>(total)
}
"""
CODES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}


def small_graph(dtype: str) -> ir.Model:
    return model_from_text(SMALL_GRAPH.replace("LOWER", str(CODES[dtype].value)))


def random_feeds(seed: int) -> Arrays:
    """Return numbers of sizes from 2^-20 to 2^18: in fp16 some are subnormal, and some overflow."""
    rng = np.random.default_rng(seed)
    shape = (200, 3)
    return {
        name: (rng.standard_normal(shape) * 2.0 ** rng.integers(-20, 18, shape)).astype(np.float32) for name in "xy"
    }


def add_then_round(dtype: str) -> Callable[[float, float], float]:
    copy = rounding_copy(model_from_text(ADDITION.replace("LOWER", str(CODES[dtype].value))))

    def add(x: float, y: float) -> float:
        feeds = {"x": np.array([x], dtype=np.float32), "y": np.array([y], dtype=np.float32)}
        return float(run(copy, feeds)["z"][0])

    return add


@LOWER
def test_equals_numpy_operator_by_operator(dtype: str) -> None:
    feeds = random_feeds(seed=0)
    lower = NUMPY[dtype]
    bias = np.array([0.1, 1000.7, -3.3], dtype=np.float32).astype(lower)
    with np.errstate(over="ignore", invalid="ignore"):
        x, y = (feeds[name].astype(lower) for name in "xy")
        expected = np.maximum((x + y) * y - bias, lower.type(0)).astype(np.float32)
        wide = [array.astype(np.float32) for array in (x, y, bias)]
        rounded_once = np.maximum((wide[0] + wide[1]) * wide[1] - wide[2], 0).astype(lower).astype(np.float32)

    assert (expected != rounded_once).any()
    assert_array_equal(run(rounding_copy(small_graph(dtype)), feeds)["z"], expected)


def test_a_value_beyond_65504_is_infinite_in_fp16_only() -> None:
    assert add_then_round("float16")(1e5, 0) == np.inf
    assert add_then_round("float16")(65504, 65504) == np.inf
    assert add_then_round("float16")(-65504, -65504) == -np.inf
    assert np.isnan(add_then_round("float16")(np.inf, -np.inf))
    assert add_then_round("bfloat16")(65536, 65536) == 131072


def test_small_parts_are_lost() -> None:
    assert add_then_round("float16")(1, 2**-12) == 1
    assert add_then_round("float16")(1, 2**-10) == 1 + 2**-10
    assert add_then_round("bfloat16")(1, 2**-9) == 1
    assert add_then_round("bfloat16")(1, 2**-7) == 1 + 2**-7


@LOWER
def test_products_are_summed_in_fp32_and_rounded_once(dtype: str) -> None:
    text = f"""
        product (float[2, 64] x, float[64, 2] y) => (float[2, 2] z)
        {{
            a = Cast<to = {CODES[dtype].value}>(x)
            b = Cast<to = {CODES[dtype].value}>(y)
            c = MatMul(a, b)
            z = Cast<to = 1>(c)
        }}
    """
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((2, 64)).astype(np.float32), "y": rng.standard_normal((64, 2)).astype(np.float32)}
    x, y = (feeds[name].astype(NUMPY[dtype]).astype(np.float64) for name in "xy")
    exact = x @ y

    found = run(rounding_copy(model_from_text(text)), feeds)["z"].astype(np.float64)
    assert_array_equal(found.astype(NUMPY[dtype]).astype(np.float64), found)
    spacing = SPACING[dtype] * np.abs(exact)
    assert (np.abs(found - exact) <= 0.51 * spacing).all()


@LOWER
def test_inputs_weights_and_outputs_in_a_lower_type_are_rounded_too(dtype: str) -> None:
    model = model_from_text("g (float[2] x) => (float[2] y) <float[2] weight = {0.1, 3}> { y = Mul(x, weight) }")
    code, lower = CODES[dtype], NUMPY[dtype]
    weight = model.graph.initializers["weight"]
    stored = ir.tensor(values_of(weight).astype(lower), name="weight")
    weight.const_value, weight.dtype = stored, code
    for value in (model.graph.inputs[0], model.graph.outputs[0]):
        value.dtype = code
    x = np.array([0.3, 7.7], dtype=np.float32)

    copy = rounding_copy(model)
    assert [value.dtype for value in (*copy.graph.inputs, *copy.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert_array_equal(values_of(copy.graph.initializers["weight"]), stored.numpy().astype(np.float32))
    assert (model.graph.initializers["weight"].const_value, model.graph.initializers["weight"].dtype) == (stored, code)
    expected = (x.astype(lower) * np.array([0.1, 3], dtype=lower)).astype(np.float32)
    (found,) = run(copy, {"x": x}).values()
    assert_array_equal(found, expected)


def test_what_computes_in_fp32_stays_exact() -> None:
    model = model_from_text(
        "g (float[1] x) => (float[1] y) { a = Cast<to = 10>(x) b = Cast<to = 1>(a) c = Mul(b, b) y = Sub(c, b) }"
    )
    x = np.array([1 + 2**-9], dtype=np.float32)  # fp16 holds it, but not its square

    assert run(rounding_copy(model), {"x": x})["y"] == x * x - x


def test_integers_are_left_alone() -> None:
    model = model_from_text("g (int64[2] x) => (int64[2] y) { y = Add(x, x) }")

    assert operators(rounding_copy(model)) == ["Add"]


def test_the_model_itself_stays_as_it_is() -> None:
    model = small_graph("float16")
    names = [value.name for node in model.graph for value in node.outputs]
    rounding_copy(model)

    assert [value.name for node in model.graph for value in node.outputs] == names
    assert [node.outputs[0].dtype for node in model.graph][:-1] == [ir.DataType.FLOAT16] * (len(names) - 1)
