"""x W -> Cast(MatMulInteger(DynamicQuantizeLinear(x), W)) scale: products in 8 bits, scales from the batch itself.

Rules:
1. An activation is rounded to uint8 by DynamicQuantizeLinear, in every run anew, with one scale for the whole batch.
   Products that read the same activation share it. What a text gets thus depends a little on the texts beside it.
2. A weight is stored in int8, with one scale for each output channel, once for all products that share it.
3. The product of integers becomes a float before the bias is added. ONNX Runtime fuses all of that into one operator.
4. A product stays as it is if its block is in Context.kept.
"""

import onnx_ir as ir

from rpln_graphs.quantization.products import LayerProduct, layer_products
from rpln_graphs.quantization.quantizers import scales_of_weight
from rpln_graphs.quantization.rounding import QUANTIZED, SCALE, quantized_tensor, register_constants
from rpln_graphs.rewriting.base import KEPT_FOR_ACCURACY, refused
from rpln_graphs.rewriting.nodes import cast_node, insert_behind, set_type, take_place, typed_node
from rpln_graphs.rewriting.quantizing import QuantizingPass
from rpln_graphs.rewriting.values import tensor_of

StoredWeight = list[ir.Value]
"""A weight's integers [K, N], and the scales of its columns [N]."""


class QuantizeDynamically(QuantizingPass):
    """A pass that quantizes products without ranges measured beforehand, and counts them."""

    def rewrite(self, model: ir.Model) -> int:
        quantized, refusals = 0, []
        rounded: dict[ir.Value, ir.Node] = {}
        weights: dict[ir.Value, StoredWeight] = {}
        for product in layer_products(model):
            if product.block in self.kept:
                refusals.append(refused(product.matmul, KEPT_FOR_ACCURACY))
                continue
            if product.activation not in rounded:
                rounded[product.activation] = _rounding(model.graph, product.activation)
            if product.weight not in weights:
                weights[product.weight] = _stored(model.graph, product.weight)
            quantized += product.counted
            _quantize(model.graph, product, rounded[product.activation], weights[product.weight])
        self.record(model, refusals)
        return quantized


def _rounding(graph: ir.Graph, value: ir.Value) -> ir.Node:
    """Put a DynamicQuantizeLinear behind the node that computes `value`, and return it (rule 1)."""
    name = value.name or ""
    node = ir.node("DynamicQuantizeLinear", [value], num_outputs=3, name=f"{name}.DynamicQuantizeLinear")
    endings = {QUANTIZED: value.shape, SCALE: (), ".zero_point": ()}
    for output, (ending, shape) in zip(node.outputs, endings.items(), strict=True):
        set_type(output, ir.DataType.FLOAT if ending == SCALE else ir.DataType.UINT8, shape).name = name + ending
    insert_behind(graph, value.producer(), [node])
    return node


def _stored(graph: ir.Graph, weight: ir.Value) -> StoredWeight:
    """Store the weight in int8, and return its integers and scales (rule 2)."""
    name, scales = weight.name or "", scales_of_weight(tensor_of(weight).numpy())
    return register_constants(graph, {name + QUANTIZED: quantized_tensor(weight, scales), name + SCALE: scales})


def _quantize(graph: ir.Graph, product: LayerProduct, rounding: ir.Node, stored: StoredWeight) -> None:
    """Let integers compute the product (rule 3)."""
    old, weight = product.matmul.outputs[0], product.weight
    result = old.name or ""
    activation, scale, zero_point = rounding.outputs
    integers, factors = stored
    summed = typed_node(
        "MatMulInteger",
        [activation, integers, zero_point],
        name=f"{result}.integers",
        dtype=ir.DataType.INT32,
        shape=old.shape,
    )
    widened = cast_node(summed.outputs[0], ir.DataType.FLOAT, name=f"{result}.unscaled")
    both = typed_node("Mul", [scale, factors], name=f"{result}.scale", dtype=ir.DataType.FLOAT, shape=factors.shape)
    scaled = typed_node(
        "Mul", [widened.outputs[0], both.outputs[0]], name=f"{result}.Mul", dtype=ir.DataType.FLOAT, shape=old.shape
    )
    graph.insert_before(product.matmul, [summed, widened, both, scaled])
    take_place(scaled.outputs[0], old)
    graph.remove(product.matmul, safe=True)
    if not weight.uses():
        del graph.initializers[weight.name or ""]
