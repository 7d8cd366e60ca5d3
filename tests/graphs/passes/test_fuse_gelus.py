"""Gelu(x + bias) -> BiasGelu(x, bias), or FastGelu(x, bias) where it is the approximation by tanh."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose

from rpln_graphs.passes.fuse_bias_gelu import FuseBiasGelu
from rpln_graphs.passes.fuse_fast_gelu import FuseFastGelu
from rpln_graphs.rewriting.base import PARTLY_FLOAT32, CountingPass
from rpln_graphs.rewriting.gelus import MIXED_TYPES, NO_BIAS
from rpln_graphs.rewriting.traits import GELU_HEAD, OTHER_ACTIVATION, TANH_GELU, GraphTraits
from tests.graphs.fusions import applied, count, optimized_runner, reasons
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run

BIAS = "float[3] bias = {0.3, -2, 1.1}"
CONSTANTS = """
    float root = {1.4142135623730951}, float one = {1}, float half = {0.5},
    float three = {3}, float cubic = {0.044715}, float slope = {0.7978845608028654}
"""
EXACT = f"g (float[b, s, 3] x) => (float[b, s, 3] y) <{BIAS}> {{ t = Add(x, bias) y = Gelu(t) }}"
TANH = EXACT.replace("Gelu(t)", 'Gelu<approximate = "tanh">(t)')
ERF_OUT = f"""
g (float[b, s, 3] x) => (float[b, s, 3] y) <{BIAS}, {CONSTANTS}> {{
    t = Add(x, bias) a = Div(t, root) b = Erf(a) c = Add(b, one) d = Mul(half, c) y = Mul(t, d)
}}
"""
TANH_OUT = f"""
g (float[b, s, 3] x) => (float[b, s, 3] y) <{BIAS}, {CONSTANTS}> {{
    t = Add(x, bias) a = Pow(t, three) b = Mul(cubic, a) c = Add(t, b) d = Mul(slope, c)
    e = Tanh(d) f = Add(e, one) g = Mul(half, f) y = Mul(t, g)
}}
"""
KINDS: dict[str, type[CountingPass]] = {"BiasGelu": FuseBiasGelu, "FastGelu": FuseFastGelu}
FEEDS: Arrays = {"x": (3 * np.random.default_rng(0).standard_normal((2, 50, 3))).astype(np.float32)}


def unbiased(text: str) -> str:
    return text.replace("t = Add(x, bias)", "t = Neg(x)")


@pytest.mark.parametrize(
    ("operator", "text"),
    [
        ("BiasGelu", EXACT),
        ("BiasGelu", EXACT.replace("Add(x, bias)", "Add(bias, x)")),
        ("BiasGelu", ERF_OUT),
        ("FastGelu", TANH),
        ("FastGelu", TANH.replace("Add(x, bias)", "Add(bias, x)")),
        ("FastGelu", TANH_OUT),
    ],
)
def test_a_gelu_and_its_bias_are_one_operator(operator: str, text: str) -> None:
    plain = model_from_text(text)
    model = applied(plain, KINDS[operator])

    assert operators(model) == [operator]
    assert count(model, KINDS[operator]) == 1
    assert reasons(model, KINDS[operator]) == []
    fused = node_named(model, "y")
    assert [value.name for value in fused.inputs if value] == ["x", "bias"]
    assert set(model.graph.initializers) == {"bias"}
    assert (fused.outputs[0].dtype, str(fused.outputs[0].shape)) == (ir.DataType.FLOAT, "[b,s,3]")
    for found in (run(model, FEEDS), optimized_runner(model)(FEEDS)):
        assert_allclose(found["y"], run(plain, FEEDS)["y"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("text", [TANH, TANH_OUT])
def test_the_approximation_needs_no_bias(text: str) -> None:
    plain = model_from_text(unbiased(text))
    model = applied(plain, FuseFastGelu)

    assert operators(model) == ["Neg", "FastGelu"]
    assert_allclose(run(model, FEEDS)["y"], run(plain, FEEDS)["y"], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (FuseBiasGelu, EXACT.replace("float", "double"), MIXED_TYPES),
        (FuseFastGelu, TANH.replace("float", "double"), MIXED_TYPES),
        (
            FuseBiasGelu,
            EXACT.replace(BIAS, "float[1] bias = {2}"),
            NO_BIAS,
        ),
        (
            FuseBiasGelu,
            EXACT.replace(BIAS, "float[1, 3] bias = {2, 1, 3}"),
            NO_BIAS,
        ),
        (FuseBiasGelu, unbiased(EXACT), "OpType mismatch: expected Add, got Neg."),
    ],
)
def test_what_the_operator_cannot_do_is_refused(kind: type[CountingPass], text: str, reason: str) -> None:
    plain = model_from_text(text)
    model = applied(plain, kind)

    assert reasons(model, kind) == [reason]
    assert operators(model) == operators(plain)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (FuseBiasGelu, ERF_OUT.replace("1.4142135623730951", "1.4142")),
        (FuseBiasGelu, ERF_OUT.replace("half = {0.5}", "half = {0.4}")),
        (
            FuseBiasGelu,
            ERF_OUT.replace("float one = {1},", "").replace("float[b, s, 3] x)", "float[b, s, 3] x, float one)"),
        ),
        (FuseFastGelu, TANH_OUT.replace("0.044715", "0.0447")),
        (FuseFastGelu, TANH_OUT.replace("three = {3}", "three = {2}")),
    ],
)
def test_what_is_nearly_a_gelu_is_none(kind: type[CountingPass], text: str) -> None:
    plain = model_from_text(text)

    assert operators(applied(plain, kind)) == operators(plain)


def test_each_kind_is_left_to_its_own_pass() -> None:
    exact, approximate = applied(model_from_text(EXACT), FuseFastGelu), applied(model_from_text(TANH), FuseBiasGelu)

    assert operators(exact) == operators(approximate) == ["Add", "Gelu"]
    assert reasons(exact, FuseFastGelu) == reasons(approximate, FuseBiasGelu) == []


@pytest.mark.parametrize("kind", [FuseBiasGelu, FuseFastGelu])
def test_a_sum_that_others_read_stays(kind: type[CountingPass]) -> None:
    text = (EXACT if kind is FuseBiasGelu else TANH).replace("float[b, s, 3] y)", "float[b, s, 3] y, float[b, s, 3] t)")
    model = applied(model_from_text(text), kind)

    assert operators(model) == (["Add", "Gelu"] if kind is FuseBiasGelu else ["Add", "FastGelu"])


def test_a_gelu_in_two_types_is_conceded() -> None:
    text = (
        TANH_OUT.replace("float", "float16")
        .replace(BIAS.replace("float", "float16"), "float16[3] bias")
        .replace("Pow(t, three)", "Pow(w, three)")
        .replace("a = ", "w = Cast<to = 1>(t) a = ")
        .replace("b = Mul(cubic, a)", "n = Cast<to = 10>(a) b = Mul(cubic, n)")
    )
    constants = "float16 one, float16 half, float three, float16 cubic, float16 slope, float16[3] bias"
    text = f"g (float16[b, s, 3] x, {constants}) => {text.partition('=>')[2]}"
    text = text[: text.index("<float16")] + text[text.index("> {") + 1 :]
    model = applied(model_from_text(text), FuseFastGelu)

    assert count(model, FuseFastGelu) == 0
    assert reasons(model, FuseFastGelu) == [PARTLY_FLOAT32]


def test_a_tanh_of_a_classifier_is_no_gelu() -> None:
    text = "g (float16[b, 3] x) => (float[b, 3] y) { a = Neg(x) t = Tanh(a) y = Cast<to = 1>(t) }"

    assert reasons(applied(model_from_text(text), FuseFastGelu), FuseFastGelu) == []


@pytest.mark.parametrize(
    ("features", "exact", "approximate"),
    [
        (set(), 7, 0),
        ({GELU_HEAD}, 8, 0),
        ({OTHER_ACTIVATION}, 0, 0),
        ({OTHER_ACTIVATION, GELU_HEAD}, 1, 0),
        ({OTHER_ACTIVATION, TANH_GELU}, 0, 7),
        ({TANH_GELU, GELU_HEAD}, 1, 7),
    ],
)
def test_the_formulas_know_the_activation_and_the_head(features: set[str], exact: int, approximate: int) -> None:
    network = GraphTraits(layers=7, features=frozenset(features))

    assert FuseBiasGelu().expected(network) == exact
    assert FuseFastGelu().expected(network) == approximate
