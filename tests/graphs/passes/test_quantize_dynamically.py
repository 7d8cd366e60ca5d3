"""x W -> Cast(MatMulInteger(DynamicQuantizeLinear(x), W)) scale: products in 8 bits, scales from the batch itself."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rpln_graphs.forms import INT8_FORMS, write_form
from rpln_graphs.passes.pack_tokens import PackTokens
from rpln_graphs.passes.quantize_dynamically import QuantizeDynamically
from rpln_graphs.rewriting.base import KEPT_FOR_ACCURACY, Context
from tests.graphs.folded import refused
from tests.graphs.formulas import formulas_of
from tests.graphs.fusions import count, optimized_runner, traced
from tests.graphs.passes.test_quantize_products import FEEDS, LAYER, ONE, QUERY, SHARED
from tests.graphs.quantized import ATTENTION, ENCODERS, FEED_FORWARD, quantized, texts
from tests.graphs.real_tokens import packing_difference
from tests.graphs.text_graphs import model_from_text, node_named, operators, run, values_of


def test_activations_are_rounded_by_their_range_in_the_batch() -> None:
    after = quantized(model_from_text(LAYER), Context(), QuantizeDynamically)

    scale = 200 / 255  # of 0, 0.3, 1.2 and 200
    normed = np.array([[[0, 2], [0, 255]]]) * scale
    weights = np.array([[64 * 2 / 127 + 0.5, 3], [-2 + 64 * 0.5 / 127, -42 * 3 / 127]])  # queries and keys together
    assert_allclose(run(after, FEEDS)["y"], normed @ weights @ [[1, 2], [3, 4]], rtol=1e-5)
    assert count(after, QuantizeDynamically) == 2
    assert refused(after, QuantizeDynamically) == {}
    assert operators(after).count("DynamicQuantizeLinear") == 1
    assert node_named(after, "y").op_type == "MatMul"


def test_a_text_of_zeros_stays_zeros() -> None:
    after = quantized(model_from_text(LAYER), Context(), QuantizeDynamically)

    assert_array_equal(run(after, {"x": np.zeros((1, 2, 2), dtype=np.float32)})["y"], np.zeros((1, 2, 2)))


def test_a_weight_is_stored_in_int8_alone_by_columns() -> None:
    after = quantized(model_from_text(LAYER), Context(), QuantizeDynamically)
    contents = {name: values_of(value) for name, value in after.graph.initializers.items()}

    assert QUERY not in contents
    assert_array_equal(contents[f"{QUERY}.quantized"], [[64, 0], [-127, 0]])
    assert (contents[f"{QUERY}.scale"] > 0).all()


def test_blocks_that_are_kept_stay_as_they_are() -> None:
    before = model_from_text(LAYER)
    after = quantized(before, Context(kept=frozenset({ATTENTION})), QuantizeDynamically)

    assert refused(after, QuantizeDynamically) == {"queries": KEPT_FOR_ACCURACY, "keys": KEPT_FOR_ACCURACY}
    assert ir.to_proto(after.graph) == ir.to_proto(before.graph)


def test_products_that_share_a_weight_share_its_integers() -> None:
    shared, one = (quantized(model_from_text(text), Context(), QuantizeDynamically) for text in (SHARED, ONE))

    assert count(shared, QuantizeDynamically) == 2
    assert len(shared.graph.initializers) == len(one.graph.initializers)
    assert_allclose(run(shared, FEEDS)["y"], 2 * run(one, FEEDS)["y"], rtol=1e-6)


# -- graphs of networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ENCODERS)
def test_every_product_of_a_network_is_rounded(task: str) -> None:
    made = traced(task)
    after = write_form(made.graph, INT8_FORMS["dynamic"], formulas_of(made, task, "full"))

    assert count(after, QuantizeDynamically) == operators(after).count("MatMulInteger") == 12
    assert {node.domain for node in after.graph} == {""}


def test_blocks_that_are_kept_count_like_others_in_the_formula() -> None:
    made, task = traced("token-classification"), "token-classification"
    context = Context(kept=frozenset({ATTENTION, FEED_FORWARD}))
    after = write_form(made.graph, INT8_FORMS["dynamic"], formulas_of(made, task, "full"), context=context)

    assert count(after, QuantizeDynamically) == 6


def test_packing_changes_little_at_real_tokens() -> None:
    """Padding takes part in the range of a batch, so that a text gets other scales without it."""
    made, task = traced("token-classification"), "token-classification"
    traits = formulas_of(made, task, "full")
    plain, packed = (write_form(made.graph, INT8_FORMS[form], traits) for form in ("dynamic", "dynamic-packed"))

    assert count(packed, PackTokens) == PackTokens().expected(traits)
    assert packing_difference(made, plain, packed) <= 0.2
    for feeds in texts(made, 3):  # nothing is packed where there is no padding
        assert_allclose(run(packed, feeds)["logits"], run(plain, feeds)["logits"], rtol=0, atol=0.05)


def test_onnx_runtime_fuses_what_it_is_written_as() -> None:
    made, task = traced("token-classification"), "token-classification"
    written = write_form(made.graph, INT8_FORMS["dynamic"], formulas_of(made, task, "full"))
    optimized = optimized_runner(written)

    for feeds in texts(made, 5):
        expected = run(written, feeds)["logits"]
        assert np.abs(optimized(feeds)["logits"] - expected).max() <= 0.02 * np.abs(expected).max()
