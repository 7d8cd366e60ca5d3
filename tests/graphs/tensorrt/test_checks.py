"""An engine is checked against its graph: layers as TensorRT gives them pass, layers with a fallback do not."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import pytest

from rpln_graphs.errors import EngineError
from rpln_graphs.passes.quantize_weights import QuantizeBlocksOf64To4, QuantizeColumnsTo8, QuantizeWeightsTo8
from rpln_graphs.quantization.quantizers import FP8, INT8, Quantizer
from rpln_graphs.quantization.rounding import compute_in_float, insert_rounding
from rpln_graphs.recipes import RECIPES
from rpln_graphs.rewriting.initializers import cast_initializer
from rpln_graphs.rewriting.values import operand
from rpln_graphs.tensorrt.checks import SMALLEST_HEAD, fused_attentions, precision_of_products, unfused_attentions
from rpln_runtime.engines.manifest import Layer
from tests.graphs.tensorrt.compiling import (
    RTX,
    SHAPES,
    UNPACKED,
    WIDE,
    WIDE_SHAPES,
    attention,
    attention_of_few_bits,
    attention_shapes,
    compile_graph,
    quantized_attention,
)
from tests.graphs.text_graphs import model_from_text
from tests.tensorrt import NEEDS_TENSORRT_RTX

ONNX_TYPES = {"float16": "float16", "float32": "float", "bfloat16": "bfloat16"}


def kernel(*nodes: str, name: str = "kernel", kind: str = "kgen", takes: Sequence[str], profile: int = 0) -> Layer:
    return Layer(name=name, kind=kind, nodes=nodes, inputs=tuple(takes), outputs=("float16",), profile=profile)


FUSED = (
    kernel("product", kind="gemm", takes=("float16", "float16", "float32", "float32")),
    kernel("heads", "q", takes=("float16",)),
    kernel("y", "softmax", "scores", name="_gemm_mha_v2_myl0_3", takes=("float16", "float16", "float32")),
)
"""The kernels of an engine of `attention()` in fp16, as they should be."""


def without(*nodes: str, of: Sequence[Layer] = FUSED) -> list[Layer]:
    """Return the kernels with `nodes` removed from what they compute."""
    return [dataclasses.replace(one, nodes=tuple(name for name in one.nodes if name not in nodes)) for one in of]


def in_type(dtype: str, node: str) -> list[Layer]:
    """Return the kernels, with the one of `node` reading tensors of another type."""
    return [dataclasses.replace(one, inputs=(dtype, dtype)) if node in one.nodes else one for one in FUSED]


# -- what TensorRT-RTX makes -------------------------------------------------------------------------------------------


@NEEDS_TENSORRT_RTX
@pytest.mark.parametrize("dtype", ONNX_TYPES)
def test_what_tensorrt_compiles_passes(tmp_path: Path, dtype: str) -> None:
    model = attention(ONNX_TYPES[dtype])
    plan = compile_graph(model, tmp_path, [SHAPES, attention_shapes(4, 4, 8)])
    assert precision_of_products(plan.layers, model, profiles=1) == dtype
    # There is no kernel of attention for fp32.
    fused = 0 if dtype == "float32" else 1
    assert fused_attentions(plan.layers, model, profiles=2) == [fused, fused]
    assert unfused_attentions(plan.layers, model, 1) == ([] if fused else ["softmax"])


@NEEDS_TENSORRT_RTX
@pytest.mark.parametrize("dtype", [INT8, FP8], ids=lambda dtype: dtype.name)
def test_quantized_products_compute_in_8_bits_beside_a_fused_attention(tmp_path: Path, dtype: ir.DataType) -> None:
    model, name = quantized_attention(dtype), dtype.numpy().name
    recipe = {INT8: "int8-tensorrt", FP8: "fp8"}[dtype]
    targets = [target for target in RTX.targets if (target, recipe) not in RTX.refused]
    plan = compile_graph(model, tmp_path, targets=targets)
    assert precision_of_products(plan.layers, model, profiles=1) == name
    assert fused_attentions(plan.layers, model, profiles=1) == [1]
    (gemm,) = [layer for layer in plan.layers if layer.kind == "gemm"]
    assert (gemm.inputs[:2], gemm.outputs) == ((name, name), ("float32",))  # sums are scaled later, and may be large
    in_fp16 = [dataclasses.replace(one, inputs=("float16",)) if one == gemm else one for one in plan.layers]
    with pytest.raises(EngineError, match=rf"product \({name}: float16\)"):
        precision_of_products(in_fp16, model, profiles=1)


@NEEDS_TENSORRT_RTX
@pytest.mark.parametrize("recipe", UNPACKED)
def test_one_kernel_multiplies_with_a_weight_of_few_bits(tmp_path: Path, recipe: str) -> None:
    model, name = attention_of_few_bits(UNPACKED[recipe]), RECIPES[recipe].stores_in.numpy().name
    targets = [target for target in RTX.targets if (target, recipe) not in RTX.refused]
    plan = compile_graph(model, tmp_path, [WIDE_SHAPES, attention_shapes(1, 1, 1, width=WIDE)], targets=targets)
    assert precision_of_products(plan.layers, model, profiles=2) == name
    assert fused_attentions(plan.layers, model, profiles=1) == [1]
    product, in_a_step = [layer for layer in plan.layers if "product" in layer.nodes and name in layer.inputs]
    assert (product.profile, in_a_step.profile) == (0, 1)
    assert set(product.inputs) == {"float16", name}
    in_fp16 = [dataclasses.replace(one, inputs=("float16",)) if one == product else one for one in plan.layers]
    with pytest.raises(EngineError, match=rf"profile 0 .*product \(float16 and {name}: float16\)"):
        precision_of_products(in_fp16, model, profiles=2)


@NEEDS_TENSORRT_RTX
def test_a_weight_that_is_unpacked_before_the_product_is_refused(tmp_path: Path) -> None:
    """This is why there is a table of GPUs: for Turing, TensorRT-RTX builds this engine, in which nothing is gained."""
    model = attention_of_few_bits(QuantizeColumnsTo8)
    plan = compile_graph(model, tmp_path, [WIDE_SHAPES], targets=["sm75"])
    with pytest.raises(EngineError, match=r"product \(float16 and int8: float16"):
        precision_of_products(plan.layers, model, profiles=1)


class InBlocks(QuantizeColumnsTo8):
    """Weights in 8 bits that TensorRT takes, in blocks."""

    largest_block = 64


@NEEDS_TENSORRT_RTX
def test_tensorrt_unpacks_8_bits_in_blocks_and_scales_in_fp32_before_the_product(tmp_path: Path) -> None:
    """This is why weights for TensorRT have one scale for a column in 8 bits, and scales in fp16 in 4 bits."""
    in_blocks, wide = attention_of_few_bits(InBlocks), attention_of_few_bits(QuantizeBlocksOf64To4)
    (widening,) = (node for node in wide.graph if node.op_type == "DequantizeLinear")
    cast_initializer(operand(widening, 1), ir.DataType.FLOAT)
    compute_in_float(wide.graph, widening)
    for model in (in_blocks, wide):
        layers = compile_graph(model, tmp_path, [WIDE_SHAPES]).layers
        (product,) = [layer for layer in layers if "product" in layer.nodes]
        assert (product.kind, product.inputs[:2]) == ("gemm", ("float16", "float16"))


@NEEDS_TENSORRT_RTX
def test_tensorrt_fuses_no_attention_whose_queries_and_keys_are_rounded(tmp_path: Path) -> None:
    """This is why the forms for TensorRT leave attention in fp16, unlike those for OpenVINO."""
    model = quantized_attention(INT8)
    quantizer = Quantizer(scale=0.03125, zero_point=0, dtype=INT8)
    (scores,) = (node for node in model.graph if node.name == "scores")
    for position, value in enumerate(scores.inputs):
        assert value is not None
        scores.replace_input_with(position, insert_rounding(model.graph, value, quantizer))
    compute_in_float(model.graph, scores)
    plan = compile_graph(model, tmp_path)
    assert unfused_attentions(plan.layers, model, 0) == ["softmax"]


@NEEDS_TENSORRT_RTX
def test_tensorrt_takes_no_negative_scales(tmp_path: Path) -> None:
    """This is why scales for TensorRT are positive."""
    with pytest.raises(EngineError, match="Scale coefficients must all be positive"):
        compile_graph(attention_of_few_bits(QuantizeWeightsTo8), tmp_path, [WIDE_SHAPES])


@NEEDS_TENSORRT_RTX
def test_tensorrt_takes_no_zero_point_but_0(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"refuses model\.onnx: .*[Zz]ero"):
        compile_graph(quantized_attention(INT8, zero_point=3), tmp_path)


# -- types -------------------------------------------------------------------------------------------------------------


def test_the_type_of_most_products_is_that_of_the_engine() -> None:
    assert precision_of_products(FUSED, attention(), profiles=1) == "float16"


@pytest.mark.parametrize("node", ["product", "scores"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_product_in_another_type_is_refused_by_name(node: str, dtype: str) -> None:
    with pytest.raises(EngineError) as refused:
        precision_of_products(in_type(dtype, node), attention(), profiles=1)
    message = str(refused.value)
    assert f"{node} (float16: {dtype})" in message
    assert ("; y (float16: " in message) == (node == "scores")  # the two are one kernel
    assert message.endswith("Please report it, with the version of TensorRT (rpln doctor).")


def test_a_product_of_two_types_is_refused() -> None:
    mixed = [*FUSED, kernel("product", kind="gemm", takes=("int8",))]
    with pytest.raises(EngineError, match=r"product \(float16: float16, float32, int8\)"):
        precision_of_products(mixed, attention(), profiles=1)


def test_a_kernel_that_only_moves_operands_does_not_count_as_a_product() -> None:
    moved = kernel("product", name="__myl_Move_myl0_1", takes=("float16",))
    assert precision_of_products([moved, *FUSED], attention(), profiles=1) == "float16"
    with pytest.raises(EngineError, match=r"product \(float16: float32\)"):
        precision_of_products([moved, *in_type("float32", "product")], attention(), profiles=1)


def test_a_product_that_no_kernel_computes_is_refused() -> None:
    with pytest.raises(EngineError, match=r"product \(float16: no kernel\)"):
        precision_of_products(without("product"), attention(), profiles=1)


def test_narrow_products_in_a_graph_of_fp32_are_refused() -> None:
    with pytest.raises(EngineError, match=r"product \(float32: float16, float32\)"):
        precision_of_products(FUSED, attention("float"), profiles=1)


def test_every_profile_is_looked_at() -> None:
    second = [dataclasses.replace(one, profile=1) for one in in_type("float32", "product")]
    with pytest.raises(EngineError, match=r"profile 1 .*product \(float16: float32\)"):
        precision_of_products([*FUSED, *second], attention(), profiles=2)
    with pytest.raises(EngineError, match=r"profile 1 .*product \(float16: no kernel\)"):
        precision_of_products(FUSED, attention(), profiles=2)


# -- attention ---------------------------------------------------------------------------------------------------------


def test_a_fused_attention_is_one_kernel_of_both_products_and_the_softmax() -> None:
    assert fused_attentions(FUSED, attention(), profiles=1) == [1]
    assert unfused_attentions(FUSED, attention(), 0) == []


@pytest.mark.parametrize("node", ["scores", "softmax", "y"])
def test_an_attention_of_several_kernels_is_named(node: str) -> None:
    apart = [*without(node), kernel(node, takes=("float16",))]
    assert unfused_attentions(apart, attention(), 0) == ["softmax"]
    assert fused_attentions(apart, attention(), profiles=1) == [0]


def test_profiles_are_counted_each() -> None:
    apart = [dataclasses.replace(one, profile=1) for one in [*without("y"), kernel("y", takes=("float16",))]]
    assert fused_attentions([*FUSED, *apart], attention(), profiles=2) == [1, 0]
    assert unfused_attentions([*FUSED, *apart], attention(), 0) == []
    assert unfused_attentions([*FUSED, *apart], attention(), 1) == ["softmax"]


def test_between_the_products_there_may_be_a_mask_a_scale_and_casts() -> None:
    model = model_from_text(
        """
        g (float16[b, 2, s, 16] q, float16[b, 2, 16, s] k, float16[b, 2, s, 16] v, float[b, 1, 1, s] mask, float scale)
            => (float16[b, s, 2, 16] y)
        {
            scores = MatMul (q, k)
            wide = Cast <to = 1> (scores)
            scaled = Mul (wide, scale)
            masked = Add (scaled, mask)
            softmax = Softmax <axis = -1> (masked)
            narrow = Cast <to = 10> (softmax)
            product = MatMul (narrow, v)
            y = Transpose <perm = [0, 2, 1, 3]> (product)
        }
        """
    )
    fused = [kernel("scores", "softmax", "product", takes=("float16", "float32"))]
    assert fused_attentions(fused, model, profiles=1) == [1]
    apart = [kernel("scores", takes=("float16",)), kernel("softmax", "product", takes=("float16",))]
    assert unfused_attentions(apart, model, 0) == ["softmax"]


def test_attention_under_a_head_mask_is_not_missed() -> None:
    model = model_from_text(
        """
        g (float16[b, 2, s, 16] q, float16[b, 2, 16, s] k, float16[b, 2, s, 16] v, float16[2, 1, 1] head_mask)
            => (float16[b, 2, s, 16] y)
        {
            scores = MatMul (q, k)
            softmax = Softmax <axis = -1> (scores)
            masked = Mul (softmax, head_mask)
            y = MatMul (masked, v)
        }
        """
    )
    apart = [kernel(name, takes=("float16",)) for name in ("scores", "softmax", "masked", "y")]
    assert unfused_attentions(apart, model, 0) == []
    assert fused_attentions(apart, model, profiles=1) == [0]


@NEEDS_TENSORRT_RTX
@pytest.mark.parametrize(("size", "fused"), [(8, 0), (SMALLEST_HEAD, 1), (16, 1), (64, 1)])
def test_heads_that_tensorrt_has_no_kernel_for_are_not_missed(tmp_path: Path, size: int, fused: int) -> None:
    model = model_from_text(
        f"""
        g (float16[b, 2, s, {size}] q, float16[b, 2, {size}, s] k, float16[b, 2, s, {size}] v)
            => (float16[b, 2, s, {size}] y)
        {{
            scores = MatMul (q, k)
            softmax = Softmax <axis = -1> (scores)
            y = MatMul (softmax, v)
        }}
        """
    )
    tokens = ((1, 2, 1, size), (2, 2, 32, size), (4, 2, 64, size))
    turned = ((1, 2, size, 1), (2, 2, size, 32), (4, 2, size, 64))
    plan = compile_graph(model, tmp_path, [{"q": tokens, "k": turned, "v": tokens}])
    assert fused_attentions(plan.layers, model, profiles=1) == [fused]
    assert unfused_attentions(plan.layers, model, 0) == []


@pytest.mark.parametrize("output", ["attentions.0", "cross_attentions.0"])
def test_attention_whose_weights_are_asked_for_is_not_missed(output: str) -> None:
    model = attention()
    (softmax,) = [node for node in model.graph if node.op_type == "Softmax"]
    softmax.outputs[0].name = output
    model.graph.outputs.append(softmax.outputs[0])
    apart = [*without("y"), kernel("y", takes=("float16",))]
    assert unfused_attentions(apart, model, 0) == []
    assert fused_attentions(apart, model, profiles=1) == [0]


def test_attention_as_one_operator_is_known_by_the_name_of_its_kernel() -> None:
    model = attention()
    (softmax,) = [node for node in model.graph if node.op_type == "Softmax"]
    node = ir.node("Attention", [softmax.inputs[0]], name="whole")
    model.graph.append(node)
    fused = kernel("whole", name="_gemm_mha_v2_myl0_4", takes=("float16",))
    assert fused_attentions([*FUSED, fused], model, profiles=1) == [2]
    apart = kernel("whole", name="__myl_ResMaxSub_myl0_4", takes=("float16",))
    assert unfused_attentions([*FUSED, apart], model, 0) == ["whole"]


def test_a_graph_without_attention_has_none() -> None:
    model = model_from_text("g (float16[n, 8] x, float16[8, 8] w) => (float16[n, 8] y) { y = MatMul (x, w) }")
    assert fused_attentions([kernel("y", takes=("float16",))], model, profiles=1) == [0]
    assert unfused_attentions([kernel("y", takes=("float16",))], model, 0) == []
