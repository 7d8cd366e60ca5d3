"""Small graphs for TensorRT, and how tests compile them: the smallest network that has all that is checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.passes.quantize_products import QuantizeProducts
from rpln_graphs.passes.quantize_weights import OPSET, QuantizeBlocksOf64To4, QuantizeColumnsTo8, QuantizeWeights
from rpln_graphs.quantization.quantizers import Quantizer
from rpln_graphs.tensorrt.backends import BACKENDS, EngineOptions
from rpln_graphs.tensorrt.builder import BuiltEngine, build_engine
from rpln_runtime.engines.profiles import Shapes
from tests.graphs.text_graphs import model_from_text

RTX: Final = BACKENDS["tensorrt-rtx"]

ATTENTION: Final = """
g ({dtype}[b, s, {width}] x, {dtype}[b, 2, 16, s] k, {dtype}[b, 2, s, 16] v, {dtype}[{width}, 32] w)
=> ({dtype}[b, 2, s, 16] y)
{{
    shape = Constant <value = int64[4] {{0, 0, 2, 16}}> ()
    product = MatMul (x, w)
    heads = Reshape (product, shape)
    q = Transpose <perm = [0, 2, 1, 3]> (heads)
    scores = MatMul (q, k)
    softmax = Softmax <axis = -1> (scores)
    y = MatMul (softmax, v)
}}
"""
"""A projection and an attention of two heads."""
WEIGHT: Final = "encoder.layer.0.attention.self.query.weight.T"
"""What the projection's weight is called in a network, by which passes find it."""


def attention(dtype: str = "float16", *, width: int = 32) -> ir.Model:
    """Return the network in one of ONNX's types, of an input this wide. Its weight is the same in every call."""
    model = model_from_text(ATTENTION.format(dtype=dtype, width=width))
    (weight,) = (value for value in model.graph.inputs if value.name == "w")
    assert weight.dtype is not None
    numbers = np.random.default_rng(0).standard_normal((width, 32)).astype(weight.dtype.numpy())
    weight.const_value = ir.tensor(numbers, name="w")
    model.graph.inputs.remove(weight)
    model.graph.initializers["w"] = weight
    return model


def quantized_attention(dtype: ir.DataType, *, zero_point: int = 0) -> ir.Model:
    """Return the network in fp16, with the projection's operands rounded to int8 or fp8."""
    model = _in_a_layer(attention())
    QuantizeProducts(quantizers={"x": Quantizer(scale=0.03125, zero_point=zero_point, dtype=dtype)})(model)
    return model


def attention_of_few_bits(kind: type[QuantizeWeights]) -> ir.Model:
    """Return the network in fp16, with an input of WIDE and the projection's weight quantized by `kind`."""
    model = _in_a_layer(attention(width=WIDE))
    model.opset_imports[""] = OPSET
    kind()(model)
    return model


def _in_a_layer(model: ir.Model) -> ir.Model:
    """Return the network once its weight is called as in a layer, so that passes find it."""
    weight = model.graph.initializers.pop("w")
    weight.name = WEIGHT
    model.graph.register_initializer(weight)
    return model


def attention_shapes(smallest: int, tuned: int, largest: int, *, width: int = 32) -> dict[str, Shapes]:
    """Return the shapes for `tokens` tokens, in a batch of as many rows."""

    def shapes(name: str) -> Shapes:
        small, middle, large = (
            {"x": (n, n, width), "k": (n, 2, 16, n), "v": (n, 2, n, 16)}[name] for n in (smallest, tuned, largest)
        )
        return small, middle, large

    return {name: shapes(name) for name in ("x", "k", "v")}


SHAPES: Final = attention_shapes(1, 8, 16)
UNPACKED: Final[dict[str, type[QuantizeWeights]]] = {
    "int8-weight-only-tensorrt": QuantizeColumnsTo8,
    "int4-tensorrt": QuantizeBlocksOf64To4,
}
"""The passes of the recipes for TensorRT that quantize nothing but weights."""
WIDE: Final = 128
"""The width of an input whose projection has several blocks."""
WIDE_SHAPES: Final = attention_shapes(1, 8, 16, width=WIDE)


def compile_graph(
    model: ir.Model,
    folder: Path,
    profiles: Sequence[Mapping[str, Shapes]] = (SHAPES,),
    *,
    targets: Sequence[str] = ("sm89",),
    **options: Any,
) -> BuiltEngine:
    """Build `model` with TensorRT-RTX. `options` are those of EngineOptions."""
    ir.save(model, folder / "model.onnx")
    return build_engine(folder / "model.onnx", profiles, backend=RTX, targets=targets, options=EngineOptions(**options))
