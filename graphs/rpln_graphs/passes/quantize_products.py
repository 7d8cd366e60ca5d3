"""x W -> DequantizeLinear(QuantizeLinear(x)) DequantizeLinear(W): products of the layers in 8 bits, scales from data.

Rules:
1. An activation has one scale and one zero point, measured beforehand (Context.quantizers). Products that read the same
   activation, such as queries, keys and values, share its QuantizeLinear.
2. A weight is stored in int8, or in fp8 where its activation is, with one scale for each output channel. Products that
   share a weight share its DequantizeLinear, which has the name of the weight, by which other code finds it.
3. A product stays as it is if its block is in Context.kept.
4. In a graph in fp16, activations are cast to fp32 before they are rounded, and the product is cast back behind it.
   TensorRT multiplies by the scales of a weight's columns behind the product, whose unscaled sums may exceed fp16.

Runtimes compute such a product in 8 bits (https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html).
"""

import numpy as np
import onnx_ir as ir

from rpln_graphs.quantization.products import LayerProduct, layer_products
from rpln_graphs.quantization.quantizers import scales_of_weight
from rpln_graphs.quantization.rounding import (
    QUANTIZED,
    SCALE,
    ZERO_POINT,
    Constant,
    compute_in_float,
    insert_rounding,
    insert_weight,
    quantized_tensor,
    replace_weight,
)
from rpln_graphs.rewriting.base import refused
from rpln_graphs.rewriting.quantizing import QuantizingPass
from rpln_graphs.rewriting.values import tensor_of


class QuantizeProducts(QuantizingPass):
    """A pass that quantizes products of activations and weights, and counts them."""

    quantized = True

    def rewrite(self, model: ir.Model) -> int:
        quantized, refusals = 0, []
        rounded: dict[ir.Value, ir.Value] = {}
        weights: dict[ir.Value, ir.Node] = {}
        for product in layer_products(model):
            activation, weight = product.activation, product.weight
            reason = self.why_not(product.block, activation)
            if reason is not None:
                refusals.append(refused(product.matmul, reason))
                continue
            quantizer = self.quantizers[activation.name or ""]
            if activation not in rounded:
                rounded[activation] = insert_rounding(model.graph, activation, quantizer)
            product.matmul.replace_input_with(0, rounded[activation])
            if weight not in weights:
                weights[weight] = _insert_weight(model.graph, product, quantizer.weight_dtype)
            replace_weight(model.graph, product, weights[weight])
            compute_in_float(model.graph, product.matmul)
            quantized += product.counted
        self.record(model, refusals)
        return quantized


def _insert_weight(graph: ir.Graph, product: LayerProduct, dtype: ir.DataType) -> ir.Node:
    """Store the product's weight in `dtype`, and return the node that makes floats of it (rule 2)."""
    array = tensor_of(product.weight).numpy().astype(np.float32, copy=False)
    scales = scales_of_weight(array, dtype)
    contents: dict[str, Constant] = {
        QUANTIZED: quantized_tensor(product.weight, scales, dtype),
        SCALE: scales,
        ZERO_POINT: np.zeros(scales.shape, dtype=dtype.numpy()),
    }
    return insert_weight(graph, product, contents, {"axis": 1})
