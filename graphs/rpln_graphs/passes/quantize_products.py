"""x W -> DequantizeLinear(QuantizeLinear(x)) DequantizeLinear(W): products of the layers in 8 bits, scales from data.

Rules:
1. An activation has one scale and one zero point, measured beforehand (Context.quantizers). Products that read the same
   activation, such as queries, keys and values, share its QuantizeLinear.
2. A weight is stored in int8, with one scale for each output channel. Products that share a weight share its
   DequantizeLinear, which has the name of the weight, by which other code finds it.
3. A product stays as it is if its block is in Context.kept.

Runtimes compute such a product with integers (https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html).
"""

from typing import Final, Self

import numpy as np
import onnx_ir as ir

from rpln_graphs.quantization.products import LayerProduct, layer_products, number_of_products
from rpln_graphs.quantization.quantizers import Quantizer, Quantizers, quantized_weight, scales_of_weight
from rpln_graphs.rewriting.base import KEPT_FOR_ACCURACY, Context, ExplainingPass, refused
from rpln_graphs.rewriting.initializers import initializer_from_array
from rpln_graphs.rewriting.nodes import insert_behind, typed_node
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.rewriting.values import tensor_of

QUANTIZED: Final = ".quantized"
SCALE: Final = ".scale"
ZERO_POINT: Final = ".zero_point"
ROUNDED: Final = ".rounded"
"""The endings of the names of a value's integers, of what it is quantized with, and of what the integers stand for."""
NOT_MEASURED: Final = "the range of its activation was not measured"


class QuantizeProducts(ExplainingPass):
    """A pass that quantizes products of activations and weights, and counts them."""

    quantized = True

    def __init__(self, *, quantizers: Quantizers | None = None, kept: frozenset[str] = frozenset()) -> None:
        self.quantizers = quantizers or {}
        self.kept = kept

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        return cls(quantizers=context.quantizers, kept=context.kept)

    def formula(self, traits: GraphTraits) -> int:
        """Return the number of products in the layers."""
        return number_of_products(traits)

    def rewrite(self, model: ir.Model) -> int:
        quantized, refusals = 0, []
        rounded: dict[ir.Value, ir.Value] = {}
        weights: dict[ir.Value, ir.Node] = {}
        for product in layer_products(model):
            quantizer = self.quantizers.get(product.activation.name or "")
            if product.block in self.kept or quantizer is None:
                reason = KEPT_FOR_ACCURACY if product.block in self.kept else NOT_MEASURED
                refusals.append(refused(product.matmul, reason))
                continue
            if product.activation not in rounded:
                rounded[product.activation] = insert_rounding(model.graph, product.activation, quantizer)
            product.matmul.replace_input_with(0, rounded[product.activation])
            if product.weight not in weights:
                weights[product.weight] = _insert_weight(model.graph, product)
            replace_weight(model.graph, product, weights[product.weight])
            quantized += product.counted
        self.record(model, refusals)
        return quantized


def insert_rounding(graph: ir.Graph, value: ir.Value, quantizer: Quantizer) -> ir.Value:
    """Put QuantizeLinear and DequantizeLinear behind the node that computes `value`, and return their result."""
    name = value.name or ""
    constants = [
        initializer_from_array(name + SCALE, np.array(quantizer.scale, dtype=np.float32)),
        initializer_from_array(name + ZERO_POINT, np.array(quantizer.zero_point, dtype=quantizer.dtype.numpy())),
    ]
    for constant in constants:
        graph.register_initializer(constant)
    narrowed = typed_node(
        "QuantizeLinear", [value, *constants], name=name + QUANTIZED, dtype=quantizer.dtype, shape=value.shape
    )
    widened = typed_node(
        "DequantizeLinear",
        [narrowed.outputs[0], *constants],
        name=name + ROUNDED,
        dtype=ir.DataType.FLOAT,
        shape=value.shape,
    )
    insert_behind(graph, value.producer(), [narrowed, widened])
    return widened.outputs[0]


def _insert_weight(graph: ir.Graph, product: LayerProduct) -> ir.Node:
    """Store the product's weight in int8, and return the node that makes floats of it (rule 2)."""
    weight = product.weight
    name = weight.name or ""
    array = tensor_of(weight).numpy()
    scales = scales_of_weight(array)
    constants = [
        initializer_from_array(name + QUANTIZED, quantized_weight(array, scales)),
        initializer_from_array(name + SCALE, scales),
        initializer_from_array(name + ZERO_POINT, np.zeros(scales.shape, dtype=np.int8)),
    ]
    widened = typed_node(
        "DequantizeLinear", constants, {"axis": 1}, name=name + ROUNDED, dtype=ir.DataType.FLOAT, shape=weight.shape
    )
    for constant in constants:
        graph.register_initializer(constant)
    graph.insert_before(product.matmul, widened)
    return widened


def replace_weight(graph: ir.Graph, product: LayerProduct, widened: ir.Node) -> None:
    """Let the product read the rounded weight, which takes the name of the other one when nothing else reads that."""
    weight = product.weight
    name = weight.name or ""
    product.matmul.replace_input_with(1, widened.outputs[0])
    if not weight.uses():
        del graph.initializers[name]
        widened.name = widened.outputs[0].name = name
