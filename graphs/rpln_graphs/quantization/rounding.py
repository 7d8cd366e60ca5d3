"""The nodes that round values in a graph: QuantizeLinear and DequantizeLinear, and the names of what they read."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.quantization.products import LayerProduct
from rpln_graphs.quantization.quantizers import INT8, Array, Quantizer, quantized_weight
from rpln_graphs.rewriting.initializers import computed_tensor, initializer_from_array, initializer_from_tensor
from rpln_graphs.rewriting.nodes import cast_node, insert_behind, set_type, typed_node
from rpln_graphs.rewriting.values import tensor_of

Constant = Array | ir.TensorProtocol
"""What a constant holds: an array, or a tensor that is computed when the graph is saved."""

FLOAT: Final = ir.DataType.FLOAT
QUANTIZED: Final = ".quantized"
SCALE: Final = ".scale"
ZERO_POINT: Final = ".zero_point"
ROUNDED: Final = ".rounded"
"""The endings of the names of a value's integers, of what it is quantized with, and of what the integers stand for."""
WIDENED: Final = ".float"
"""The ending of the name of a value in fp16, once it is cast to fp32."""


def insert_rounding(graph: ir.Graph, value: ir.Value, quantizer: Quantizer) -> ir.Value:
    """Put QuantizeLinear and DequantizeLinear behind the node that computes `value`, and return their result.

    They are in fp32: a value in a lower type is cast first.
    """
    name = value.name or ""
    cast = [] if value.dtype == FLOAT else [cast_node(value, FLOAT, name=name + WIDENED)]
    source = cast[0].outputs[0] if cast else value
    constants = register_constants(
        graph,
        {
            name + SCALE: np.array(quantizer.scale, dtype=np.float32),
            name + ZERO_POINT: np.array(quantizer.zero_point, dtype=quantizer.dtype.numpy()),
        },
    )
    narrowed = typed_node(
        "QuantizeLinear", [source, *constants], name=name + QUANTIZED, dtype=quantizer.dtype, shape=value.shape
    )
    widened = _widening([narrowed.outputs[0], *constants], value, {})
    insert_behind(graph, value.producer(), [*cast, narrowed, widened])
    return widened.outputs[0]


def compute_in_float(graph: ir.Graph, node: ir.Node) -> None:
    """Let a node whose inputs are now in fp32 give out fp32. Its readers still get the type that it gave out before."""
    value = node.outputs[0]
    name, dtype = value.name or "", value.dtype
    if dtype is None or dtype == FLOAT:
        return
    set_type(value, FLOAT, value.shape).name = name + WIDENED
    cast = cast_node(value, dtype, name=name)
    value.replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
    cast.replace_input_with(0, value)
    insert_behind(graph, node, [cast])


def insert_weight(
    graph: ir.Graph, product: LayerProduct, contents: Mapping[str, Constant], attributes: Mapping[str, Any]
) -> ir.Node:
    """Store what quantization made of the product's weight, and return the DequantizeLinear that makes floats of it.

    `contents` are the node's inputs, by the endings of their names; `attributes` are the node's.
    """
    name = product.weight.name or ""
    constants = register_constants(graph, {name + ending: content for ending, content in contents.items()})
    widened = _widening(constants, product.weight, attributes)
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


def quantized_tensor(weight: ir.Value, scales: Array, dtype: ir.DataType = INT8) -> ir.TensorProtocol:
    """Return the weight in int8 or fp8, rounded whenever it is read, so that forms that are tried take no memory."""
    tensor = tensor_of(weight)

    def rounded(array: Array) -> Array:
        return quantized_weight(array.astype(np.float32, copy=False), scales, dtype)

    return computed_tensor(
        tensor, rounded, dtype=dtype, shape=tensor.shape.numpy(), name=(weight.name or "") + QUANTIZED
    )


def register_constants(graph: ir.Graph, contents: Mapping[str, Constant]) -> list[ir.Value]:
    """Add constants to the graph, by their names, and return them."""
    constants = [
        initializer_from_array(name, content) if isinstance(content, np.ndarray) else initializer_from_tensor(content)
        for name, content in contents.items()
    ]
    for constant in constants:
        graph.register_initializer(constant)
    return constants


def _widening(inputs: Sequence[ir.Value], value: ir.Value, attributes: Mapping[str, Any]) -> ir.Node:
    """Return the DequantizeLinear whose result stands for `value`. It has the type of the scale, the second input."""
    return typed_node(
        "DequantizeLinear",
        inputs,
        dict(attributes),
        name=(value.name or "") + ROUNDED,
        dtype=inputs[1].dtype,
        shape=value.shape,
    )
