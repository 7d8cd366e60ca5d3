"""x W + b -> x W + (b - E[x] (W' - W)): on average, rounded weights give what the others gave."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rpln_graphs.passes.correct_biases import CorrectBiases
from rpln_graphs.quantization.observe import observe
from rpln_graphs.rewriting.base import Context, counts_from_model
from tests.graphs.quantized import FEED_FORWARD, quantized
from tests.graphs.text_graphs import model_from_text, runner, values_of

RNG = np.random.default_rng(2)
WEIGHT = RNG.standard_normal((6, 3)).astype(np.float32)
LAYER = f"""
g (float[b, s, 6] x) => (float[b, s, 3] y)
<float[6, 3] encoder__layer__0__intermediate__weight = {{{", ".join(map(repr, WEIGHT.ravel().tolist()))}}},
 float[3] bias = {{5, 6, 7}}>
{{
    shifted = Relu(x)
    product = MatMul(shifted, encoder__layer__0__intermediate__weight)
    y = Add(product, bias)
}}
"""
TEXTS = [{"x": (RNG.standard_normal((1, size, 6)) + 2).astype(np.float32)} for size in (3, 40, 17)]


def context(model: ir.Model, *, kept: frozenset[str] = frozenset()) -> Context:
    seen = observe(model, ["shifted"], TEXTS)
    return Context(means={name: one.means for name, one in seen.items()}, kept=kept)


def mean_of(model: ir.Model) -> np.ndarray:
    compute = runner(model)
    rows = np.concatenate([compute(feeds)["y"].reshape(-1, 3) for feeds in TEXTS])
    return np.asarray(rows.mean(axis=0, dtype=np.float64))


def test_the_mean_of_what_rounded_weights_give_is_that_of_the_others() -> None:
    before = model_from_text(LAYER)
    corrected = quantized(before, context(before), CorrectBiases)

    def with_rounded_weight(model: ir.Model) -> ir.Model:
        copy = quantized(model, Context())
        weight = copy.graph.initializers["encoder.layer.0.intermediate.weight"]
        scales = np.abs(WEIGHT).max(axis=0) / 127
        weight.const_value = ir.tensor((np.rint(WEIGHT / scales) * scales).astype(np.float32), name=weight.name)
        return copy

    off = np.abs(mean_of(with_rounded_weight(before)) - mean_of(before))
    assert off.max() > 1e-3
    assert_allclose(mean_of(with_rounded_weight(corrected)), mean_of(before), atol=2e-6)
    assert counts_from_model(corrected) == {"CorrectBiases": 1}


@pytest.mark.parametrize("kept", [True, False])
def test_biases_stay_where_nothing_was_measured_or_nothing_is_rounded(kept: bool) -> None:
    before = model_from_text(LAYER)
    given = context(before, kept=frozenset({FEED_FORWARD})) if kept else Context()
    after = quantized(before, given, CorrectBiases)

    assert counts_from_model(after) == {"CorrectBiases": 0}
    assert_array_equal(values_of(after.graph.initializers["bias"]), [5, 6, 7])
