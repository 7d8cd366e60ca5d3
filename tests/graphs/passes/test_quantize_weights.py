"""x W -> x DequantizeLinear(W): weights in 8 or 4 bits, in blocks; and MatMulNBits, which computes both at once."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from rpln_graphs.forms import WEIGHTS_4, WEIGHTS_8, write_form
from rpln_graphs.passes.fuse_quantized_weights import FuseQuantizedWeights
from rpln_graphs.passes.quantize_weights import (
    OPSET,
    QuantizeBlocksOf64To4,
    QuantizeColumnsTo8,
    QuantizeWeights,
    QuantizeWeightsTo4,
    QuantizeWeightsTo8,
)
from rpln_graphs.quantization.blocks import identity_of_weight, quantized_blocks
from rpln_graphs.quantization.error_aware import compensation
from rpln_graphs.rewriting.base import KEPT_FOR_ACCURACY, NO_BLOCKS, Context
from rpln_graphs.rewriting.initializers import cast_initializer
from rpln_graphs.rewriting.nodes import set_type
from tests.graphs.folded import refused
from tests.graphs.formulas import formulas_of
from tests.graphs.fusions import GRAPHS, count, traced
from tests.graphs.networks import trace_task
from tests.graphs.quantized import ATTENTION, quantized, texts
from tests.graphs.text_graphs import Arrays, model_from_text, node_named, operators, run, values_of

KINDS = [QuantizeWeightsTo8, QuantizeWeightsTo4]
QUERY, KEY = (f"{ATTENTION}.self.{name}.weight.T" for name in ("query", "key"))
RNG = np.random.default_rng(7)
WEIGHT = RNG.standard_normal((48, 3)).astype(np.float32) * np.array([1, 100, 0], dtype=np.float32)
FEEDS: Arrays = {"x": RNG.standard_normal((2, 5, 48)).astype(np.float32)}
GRAPH = """
g (float[b, s, {rows}] x) => (float[b, s, {columns}] y)
<float[{rows}, {columns}] encoder__layer__0__attention__self__query__weight__T = {{{query}}},
 float[{rows}, {columns}] encoder__layer__0__attention__self__key__weight__T = {{{query}}}>
{{
    queries = MatMul(x, encoder__layer__0__attention__self__query__weight__T)
    keys = MatMul(x, encoder__layer__0__attention__self__{second}__weight__T)
    y = Add(queries, keys)
}}
"""


def graph(*, second: str = "key", weight: np.ndarray = WEIGHT) -> ir.Model:
    rows, columns = weight.shape
    query = ", ".join(str(float(value)) for value in weight.ravel())
    return at_opset(model_from_text(GRAPH.format(query=query, second=second, rows=rows, columns=columns)))


def at_opset(model: ir.Model) -> ir.Model:
    model.opset_imports[""] = OPSET
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_each_block_of_a_column_has_a_scale_of_its_own(kind: type[QuantizeWeights]) -> None:
    after = quantized(graph(), Context(), kind)
    integers, scales = (values_of(after.graph.initializers[QUERY + end]) for end in (".quantized", ".scale"))
    stored = np.repeat(scales, 16, axis=0) * integers.astype(np.float32)

    assert (integers.shape, scales.shape) == ((48, 3), (3, 3))  # 16 is the largest power of two that divides 48
    least = 2 ** (kind.bits - 1)
    largest = np.abs(WEIGHT.reshape(3, 16, 3)).max(axis=1)
    # A scale may clip the largest values a little, but never more than 30 per cent of them; its sign is theirs.
    assert (np.abs(scales) <= 1.15 * largest / least + 1e-6).all()
    assert (np.abs(scales) >= 0.7 * largest / least - 1e-6).all()
    assert (np.abs(stored - WEIGHT) <= 0.31 * np.repeat(largest, 16, axis=0)).all()
    assert (stored[:, 2] == 0).all()
    assert np.allclose(run(after, FEEDS)["y"], 2 * FEEDS["x"] @ stored, atol=1e-3)
    assert node_named(after, QUERY).op_type == "DequantizeLinear"
    assert QUERY not in after.graph.initializers


@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_operator_computes_with_the_same_weights(kind: type[QuantizeWeights]) -> None:
    plain = quantized(graph(), Context(), kind)
    fused = quantized(graph(), Context(), kind, FuseQuantizedWeights)

    assert operators(fused) == ["MatMulNBits", "MatMulNBits", "Add"]
    assert (count(fused, kind), count(fused, FuseQuantizedWeights)) == (2, 2)
    expected = run(plain, FEEDS)["y"]
    # It rounds activations to 8 bits, so that it is a little off, but not as far as a wrong layout.
    assert np.abs(run(fused, FEEDS)["y"] - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("kind", KINDS)
def test_products_that_share_a_weight_share_its_integers(kind: type[QuantizeWeights]) -> None:
    one, shared = (
        [quantized(graph(second=second), Context(), *passes) for passes in ([kind], [kind, FuseQuantizedWeights])]
        for second in ("key", "query")
    )

    for two_weights, one_weight in zip(one, shared, strict=True):
        assert count(one_weight, kind) == 2
        assert len(one_weight.graph.initializers) == len(two_weights.graph.initializers) // 2 + 1  # the key's weight
        np.testing.assert_allclose(run(one_weight, FEEDS)["y"], run(two_weights, FEEDS)["y"], rtol=1e-5, atol=1e-5)


def test_a_weight_that_was_rounded_beforehand_is_known_by_what_it_holds() -> None:
    rounded = (np.full((48, 3), 5, np.int8), np.full((3, 3), 0.5, np.float32))
    before = graph()
    before.graph.initializers[KEY].const_value = ir.tensor(WEIGHT + 1)
    after = quantized(before, Context(weights={identity_of_weight(WEIGHT): rounded}), QuantizeWeightsTo4)
    query, key = (values_of(after.graph.initializers[name + ".quantized"]) for name in (QUERY, KEY))

    assert (query == 5).all()
    np.testing.assert_array_equal(key.astype(np.int8), quantized_blocks(WEIGHT + 1, bits=4, size=16)[0])


@pytest.mark.parametrize(
    ("weight", "context", "reason"),
    [
        (WEIGHT, Context(kept=frozenset({ATTENTION})), KEPT_FOR_ACCURACY),
        (WEIGHT[:40], Context(), NO_BLOCKS),  # 8 divides 40, and kernels take 16 or more
    ],
)
def test_a_product_that_is_not_quantized_stays_as_it_is(weight: np.ndarray, context: Context, reason: str) -> None:
    before = graph(weight=weight)
    after = quantized(before, context, QuantizeWeightsTo8, FuseQuantizedWeights)

    assert refused(after, QuantizeWeightsTo8) == {"queries": reason, "keys": reason}
    assert refused(after, FuseQuantizedWeights) == {"queries": NO_BLOCKS, "keys": NO_BLOCKS}
    assert operators(after) == operators(before)


FOR_TENSORRT: dict[type[QuantizeWeights], tuple[int, ...]] = {QuantizeColumnsTo8: (8,), QuantizeBlocksOf64To4: (2, 8)}
"""The passes for TensorRT, and the shape of the scales that they give a weight of 128 rows and eight columns."""
TALL = RNG.standard_normal((128, 8)).astype(np.float16) * np.array([1e-6, 100, 0, 1, 2, 3, 4, 5], dtype=np.float16)
"""A weight in fp16 whose first column has a scale that fp16 hardly holds, and the third one has none."""


@pytest.mark.parametrize("kind", FOR_TENSORRT)
def test_weights_for_tensorrt_have_positive_scales_in_their_own_type(kind: type[QuantizeWeights]) -> None:
    after = quantized(in_half(TALL), Context(), kind)
    integers, scales = (values_of(after.graph.initializers[QUERY + end]) for end in (".quantized", ".scale"))
    widening = node_named(after, QUERY)
    stored = integers.astype(np.float32) * np.repeat(np.atleast_2d(scales), 128 // np.atleast_2d(scales).shape[0], 0)
    least = 2 ** (kind.bits - 1)

    assert (scales.shape, scales.dtype.name) == (FOR_TENSORRT[kind], "float16")
    assert scales.min() > 0
    assert widening.outputs[0].dtype == ir.DataType.FLOAT16
    # Half a step, or what a clipped extreme is short of; of the tiny column, a step is the smallest number of fp16.
    steps = np.maximum(np.abs(TALL).max(axis=0).astype(np.float32) / least, np.finfo(np.float16).smallest_subnormal)
    assert (np.abs(stored - TALL) <= steps * np.array([1, *[0.31 * least] * 7])).all()
    assert (stored[:, 2] == 0).all()
    feeds = {"x": RNG.standard_normal((2, 5, 128)).astype(np.float16)}
    expected = 2 * feeds["x"].astype(np.float32) @ stored
    np.testing.assert_allclose(run(after, feeds)["y"], expected, atol=4e-3 * np.abs(expected).max())


def test_a_weight_in_fp16_is_rounded_for_its_inputs_with_scales_in_fp16() -> None:
    factor = compensation(np.eye(128))
    blocks = QuantizeBlocksOf64To4.rounded_for_inputs(TALL, factor)
    assert blocks is not None
    for one, other in zip(blocks, quantized_blocks(TALL, bits=4, size=64, positive=True), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    after = quantized(in_half(TALL), Context(weights={identity_of_weight(TALL): blocks}), QuantizeBlocksOf64To4)
    np.testing.assert_array_equal(values_of(after.graph.initializers[f"{QUERY}.scale"]), blocks[1])


def in_half(weight: np.ndarray) -> ir.Model:
    """Return the graph in fp16, with this weight in both of its products."""
    model = graph(weight=weight.astype(np.float32))
    for value in (*model.graph.inputs, *model.graph.outputs, *(out for node in model.graph for out in node.outputs)):
        set_type(value, ir.DataType.FLOAT16, value.shape)
    for value in model.graph.initializers.values():
        cast_initializer(value, ir.DataType.FLOAT16)
    return model


def test_blocks_for_cpus_are_as_large_as_the_accuracy_that_is_stated_allows() -> None:
    """64 and 128 are what benchmarks/results/embedded-metrics.md was measured with."""
    sizes = {kind.bits: [kind.size_of_blocks((rows, 3)) for rows in (24, 48, 96, 768)] for kind in KINDS}
    assert sizes == {8: [None, 16, 32, 64], 4: [None, 16, 32, 128]}


def test_blocks_for_tensorrt_are_those_that_its_kernels_unpack() -> None:
    sizes = {rows: QuantizeBlocksOf64To4.size_of_blocks((rows, 8)) for rows in (32, 64, 96, 128, 192, 768)}
    assert sizes == {32: None, 64: None, 96: None, 128: 64, 192: 64, 768: 64}
    assert [QuantizeColumnsTo8.size_of_blocks((rows, 8)) for rows in (7, 8, 768)] == [None, 8, 768]
    for kind in FOR_TENSORRT:
        assert [kind.size_of_blocks((768, columns)) is None for columns in (33, 40)] == [True, False]


PRODUCTS = {"encoder": 0, "text2text-generation": 16}
"""The products that are counted in the tiny networks' graphs: 6 in a layer, 2 more with cross-attention.

The encoder of an encoder-decoder has 24 or 40 rows, of which no block of 16 is made.
"""


@pytest.mark.parametrize(("task", "variant"), GRAPHS)
def test_every_product_of_a_network_is_quantized(task: str, variant: str) -> None:
    made = traced(task, variant)
    traits = formulas_of(made, task, variant)
    expected = PRODUCTS.get(variant, PRODUCTS.get(task, 12))
    for forms, kind in ((WEIGHTS_8, QuantizeWeightsTo8), (WEIGHTS_4, QuantizeWeightsTo4)):
        standard, fused = (write_form(made.graph, form, traits) for form in forms.values())
        assert count(standard, kind) == expected
        assert count(fused, FuseQuantizedWeights) == expected
        assert {node.domain for node in standard.graph} == {""}


@pytest.mark.parametrize("forms", [WEIGHTS_8, WEIGHTS_4], ids=["8 bits", "4 bits"])
def test_numpy_computes_the_same(forms: dict[str, object]) -> None:
    task = "token-classification"
    made = trace_task(task, opset=OPSET)
    written = write_form(made.graph, next(iter(forms.values())), formulas_of(made, task, "full"))  # type: ignore[arg-type]
    evaluator = ReferenceEvaluator(ir.to_proto(written))

    for feeds in texts(made, 6):
        found = evaluator.run(None, feeds)
        assert isinstance(found, list)
        expected = np.asarray(found[0])
        np.testing.assert_allclose(run(written, feeds)["logits"], expected, rtol=0, atol=2e-5)
        assert np.abs(made.eager(feeds)["logits"] - expected).max() > 1e-3
