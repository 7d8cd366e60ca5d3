"""x W -> DequantizeLinear(QuantizeLinear(x)) DequantizeLinear(W): products in 8 bits, with scales from data."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.testing import assert_array_equal

from rpln_graphs.errors import PassError
from rpln_graphs.forms import INT8_FORMS, write_form
from rpln_graphs.passes.lower_precision import LowerPrecision
from rpln_graphs.passes.pack_tokens import PackTokens
from rpln_graphs.passes.quantize_dynamically import QuantizeDynamically
from rpln_graphs.passes.quantize_products import QuantizeProducts
from rpln_graphs.quantization.quantizers import FP8, INT8, Quantizer
from rpln_graphs.quantization.rounding import QUANTIZED
from rpln_graphs.recipes import FOLDS
from rpln_graphs.rewriting.base import KEPT_FOR_ACCURACY, Context
from rpln_graphs.rewriting.quantizing import NOT_MEASURED, QuantizingPass
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.trace import NEWEST_OPSET
from tests.graphs.folded import applied, refused
from tests.graphs.formulas import formulas_of
from tests.graphs.fusions import count, traced
from tests.graphs.networks import Network, trace_task
from tests.graphs.quantized import ATTENTION, ENCODERS, FEED_FORWARD, context_of, quantized
from tests.graphs.real_tokens import at_real_tokens, short_cases
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run, runner, values_of

LAYER = """
g (float[b, s, 2] x) => (float[b, s, 2] y)
<float[2, 2] encoder__layer__0__attention__self__query__weight__T = {1, 0, -2, 0},
 float[2, 2] encoder__layer__0__attention__self__key__weight__T = {0.5, 3, 0.25, -1},
 float[2, 2] classifier__weight__T = {1, 2, 3, 4}>
{
    normed = Relu(x)
    queries = MatMul(normed, encoder__layer__0__attention__self__query__weight__T)
    keys = MatMul(normed, encoder__layer__0__attention__self__key__weight__T)
    both = Add(queries, keys)
    y = MatMul(both, classifier__weight__T)
}
"""
QUERY, KEY = (f"{ATTENTION}.self.{name}.weight.T" for name in ("query", "key"))
QUANTIZER = Quantizer(scale=0.5, zero_point=2)
CONTEXT = Context(quantizers={"normed": QUANTIZER})
FEEDS: Arrays = {"x": np.array([[[0.3, 1.2], [-7.0, 200.0]]], dtype=np.float32)}


def test_activations_and_weights_are_rounded() -> None:
    after = quantized(model_from_text(LAYER), CONTEXT, QuantizeProducts)

    normed = np.array([[[0.5, 1.0], [0.0, 126.5]]])  # (255 - 2) / 2 is the largest number
    queries = normed @ np.array([[64 * 2 / 127, 0], [-2, 0]])  # 63.5 rounds to the even 64
    keys = normed @ np.array([[0.5, 3], [64 * 0.5 / 127, -42 * 3 / 127]])
    np.testing.assert_allclose(run(after, FEEDS)["y"], (queries + keys) @ [[1, 2], [3, 4]], rtol=1e-6)
    assert count(after, QuantizeProducts) == 2
    assert refused(after, QuantizeProducts) == {}


@pytest.mark.parametrize("kind", [QuantizeProducts, QuantizeDynamically])
def test_weights_are_rounded_whenever_they_are_read_so_that_a_form_holds_none(kind: type[QuantizingPass]) -> None:
    after = quantized(model_from_text(LAYER), CONTEXT, kind)
    stored = {value.name: value.const_value for value in after.graph.initializers.values()}
    weights = [stored[f"{name}{QUANTIZED}"] for name in (QUERY, KEY)]
    assert [(type(weight), weight and weight.dtype) for weight in weights] == [(ir.LazyTensor, INT8)] * 2


def test_products_of_one_activation_share_its_rounding() -> None:
    after = quantized(model_from_text(LAYER), CONTEXT, QuantizeProducts)

    assert operators(after).count("QuantizeLinear") == 1
    assert {node_named(after, name).inputs[0] for name in ("queries", "keys")} == {
        node_named(after, "normed.rounded").outputs[0]
    }


def test_a_weight_is_stored_in_int8_alone_by_columns() -> None:
    after = quantized(model_from_text(LAYER), CONTEXT, QuantizeProducts)
    contents = {name: values_of(value) for name, value in after.graph.initializers.items()}

    assert QUERY not in contents
    assert contents[f"{QUERY}.quantized"].dtype == np.int8
    assert_array_equal(contents[f"{QUERY}.quantized"], [[64, 0], [-127, 0]])
    assert_array_equal(contents[f"{KEY}.scale"], np.array([0.5, 3], dtype=np.float32) / np.float32(127))
    # A column of zeros has a scale that is a number, and stays zeros.
    assert np.isfinite(contents[f"{QUERY}.scale"]).all()
    assert (contents[f"{QUERY}.scale"] > 0).all()
    assert contents["normed.zero_point"].dtype == np.uint8
    # Other code finds the weight by its name.
    assert node_named(after, QUERY).op_type == "DequantizeLinear"


def test_the_last_product_stays_in_fp32() -> None:
    after = quantized(model_from_text(LAYER), CONTEXT, QuantizeProducts)

    assert [str(value.name) for value in node_named(after, "y").inputs if value] == ["both", "classifier.weight.T"]


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (Context(quantizers=CONTEXT.quantizers, kept=frozenset({ATTENTION})), KEPT_FOR_ACCURACY),
        (Context(), NOT_MEASURED),
    ],
)
def test_a_product_that_is_not_rounded_stays_as_it_is(context: Context, reason: str) -> None:
    before = model_from_text(LAYER)
    after = quantized(before, context, QuantizeProducts)

    assert refused(after, QuantizeProducts) == {"queries": reason, "keys": reason}
    assert ir.to_proto(after.graph) == ir.to_proto(before.graph)


SHARED = LAYER.replace("__self__key__weight__T)", "__self__query__weight__T)")
"""Two products of one weight."""


def test_products_that_share_a_weight_share_its_integers() -> None:
    after = quantized(model_from_text(SHARED), CONTEXT, QuantizeProducts)

    assert count(after, QuantizeProducts) == 2
    assert operators(after).count("DequantizeLinear") == 2
    found = run(after, FEEDS)["y"]
    assert_array_equal(found, 2 * run(quantized(model_from_text(ONE), CONTEXT, QuantizeProducts), FEEDS)["y"])


ONE = SHARED.replace("both = Add(queries, keys)", "both = Identity(queries)")


def test_a_weight_that_something_else_reads_is_there_in_fp32_too() -> None:
    tied = SHARED.replace("y = MatMul(both, classifier__weight__T)", f"y = MatMul(both, {QUERY.replace('.', '__')})")
    before = model_from_text(tied.replace("MatMul(both", "Gemm(flat").replace("y = ", "flat = Squeeze(both) y = "))
    after = quantized(before, CONTEXT, QuantizeProducts)

    assert {QUERY, f"{QUERY}.quantized"} <= set(after.graph.initializers)
    names = [str(value.name) for node in after.graph for value in node.outputs]
    assert len(set(names)) == len(names)
    assert set(names).isdisjoint(after.graph.initializers)
    assert np.isfinite(run(after, FEEDS)["y"]).all()


# -- graphs of networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ENCODERS)
def test_every_product_of_a_network_is_rounded(task: str) -> None:
    made = traced(task)
    after = write_form(
        made.graph, INT8_FORMS["static-products"], formulas_of(made, task, "full"), context=context_of(made, made.graph)
    )

    assert count(after, QuantizeProducts) == 12  # six in each layer
    # Queries, keys and values share one, unless queries are those of one token: 4 and 5 roundings.
    first = task in {"text-classification", "multiple-choice"}
    assert operators(after).count("QuantizeLinear") in ({8, 9} if first else {8})
    assert {node.domain for node in after.graph} == {""}


def test_blocks_that_are_kept_count_like_others_in_the_formula() -> None:
    made, task = traced("token-classification"), "token-classification"
    context = context_of(made, made.graph, kept=[ATTENTION, FEED_FORWARD])
    after = write_form(made.graph, INT8_FORMS["static-products"], formulas_of(made, task, "full"), context=context)

    assert count(after, QuantizeProducts) == 6
    assert all("layer.0." in name for name in refused(after, QuantizeProducts))
    unmeasured = Context(quantizers={}, kept=context.kept)
    with pytest.raises(PassError, match=f"QuantizeProducts changed 0 of 12 places(.|\n)*{NOT_MEASURED}"):
        write_form(made.graph, INT8_FORMS["static-products"], formulas_of(made, task, "full"), context=unmeasured)


@pytest.mark.parametrize("name", ["static", "static-products"])
@pytest.mark.parametrize("task", ["token-classification", "text-classification"])
def test_packing_changes_nothing_at_real_tokens(task: str, name: str) -> None:
    """The scales are constants, so that what a token gets does not depend on padding, but for roundings that flip."""
    made = traced(task)
    graph, traits = applied(made.graph, *FOLDS), formulas_of(made, task, "full")
    context = context_of(made, graph)
    forms = (INT8_FORMS[name], INT8_FORMS[f"{name}-packed"])
    plain, packed = (write_form(graph, form, traits, context=context) for form in forms)

    assert count(packed, PackTokens) == PackTokens().expected(traits)
    one, other = runner(plain), runner(packed)
    differences = []
    for case in short_cases(made):
        expected, found = (at_real_tokens(made, run(case.feeds), case)["logits"] for run in (one, other))
        differences += np.abs(expected - found).ravel().tolist()
    assert np.mean(np.array(differences) > 2e-5) < 0.25
    assert max(differences) < 0.2


ODD: dict[str, dict[str, object]] = {
    "relative positions and relu in opset 17": {
        "opset": 17,
        "position_embedding_type": "relative_key_query",
        "hidden_act": "relu",
    },
    "a mask of heads, hidden states and attentions in the newest opset": {
        "opset": NEWEST_OPSET,
        "inputs": ("input_ids", "attention_mask", "head_mask"),
        "outputs": ("hidden_states", "attentions"),
    },
    "embeddings as inputs": {"inputs": ("inputs_embeds", "attention_mask")},
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("form", ["static", "dynamic"])
def test_an_unusual_network_is_quantized_like_others(name: str, form: str) -> None:
    made = odd_network(name)
    after = write_form(made.graph, INT8_FORMS[form], GraphTraits(layers=2), context=context_of(made, made.graph))

    plain = [case for case in made.stress_cases() if case.mask.shape[1] == 5]
    for case in plain[:3]:
        found, expected = run(after, case.feeds), made.eager(case.feeds)
        for output, array in expected.items():
            reach = float(np.abs(array).max())
            assert found[output].shape == array.shape
            assert np.abs(found[output] - array).max() <= 0.15 * reach, output


def odd_network(name: str) -> Network:
    options = ODD[name]
    return trace_task("token-classification", **options)  # type: ignore[arg-type] # options of several types


# -- in fp16, for TensorRT ---------------------------------------------------------------------------------------------


def lowered(dtype: ir.DataType, scale: float) -> ir.Model:
    """Return LAYER in fp16, quantized to int8 or fp8."""
    graph = model_from_text(LAYER)
    LowerPrecision(dtype=ir.DataType.FLOAT16)(graph)
    quantizer = Quantizer(scale=scale, zero_point=0, dtype=dtype)
    return quantized(graph, Context(quantizers={"normed": quantizer}), QuantizeProducts)


@pytest.mark.parametrize(("dtype", "largest"), [(INT8, 127), (FP8, 448)], ids=["int8", "fp8"])
def test_a_graph_in_fp16_computes_what_torch_computes(dtype: ir.DataType, largest: int) -> None:
    x = torch.tensor([[0.3, 1.2], [-7.0, 200.0]]).half().float()
    weights = [torch.tensor(rows) for rows in ([[1.0, 0], [-2, 0]], [[0.5, 3], [0.25, -1]])]
    found = run(lowered(dtype, 200 / largest), FEEDS)["y"]

    def rounded(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        scaled = values / scales
        return (scaled.to(torch.float8_e4m3fn).float() if dtype == FP8 else scaled.round()) * scales

    normed = rounded(x.relu(), torch.tensor(200 / largest))
    scales = [(weight.abs().amax(dim=0) / largest).clamp_min(1e-30) for weight in weights]
    products = [(normed @ rounded(weight, scale)).half() for weight, scale in zip(weights, scales, strict=True)]
    expected = (products[0] + products[1]) @ torch.tensor([[1.0, 2], [3, 4]]).half()

    np.testing.assert_allclose(found[0], expected.float().numpy(), rtol=2e-3)


@pytest.mark.parametrize("dtype", [INT8, FP8], ids=["int8", "fp8"])
def test_a_product_in_fp16_is_scaled_in_fp32_and_cast_behind(dtype: ir.DataType) -> None:
    after = lowered(dtype, 0.5)

    for name in ("queries", "keys"):
        product, cast = node_named(after, name), node_named(after, f"{name}.Cast")
        assert product.outputs[0].dtype == ir.DataType.FLOAT
        assert (cast.inputs[0], cast.outputs[0].name, cast.outputs[0].dtype) == (
            product.outputs[0],
            name,
            ir.DataType.FLOAT16,
        )
    assert operators(after).count("QuantizeLinear") == 1
    contents = {name: values_of(value) for name, value in after.graph.initializers.items()}
    assert contents[f"{QUERY}.quantized"].dtype == contents["normed.zero_point"].dtype == dtype.numpy()
    assert contents["normed.scale"].dtype == contents[f"{QUERY}.scale"].dtype == np.float32
    assert QUERY not in contents
