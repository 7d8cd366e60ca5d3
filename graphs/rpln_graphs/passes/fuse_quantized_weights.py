"""MatMul(x, DequantizeLinear(W)) with W in blocks -> MatMulNBits(x, W): ONNX Runtime's operator for such products.

Rules:
1. ONNX Runtime fuses both nodes itself when it loads a graph, and then lays out the weights anew. Here they are laid
   out once: for each column its blocks, each of bytes that hold one value of 8 bits, or two of 4, the first in the low
   half. All values are shifted to be unsigned.
2. Activations are rounded to 8 bits in blocks, too (accuracy_level 4), which is what makes the operator fast.

The operator: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.quantization.products import block_of, counts, number_of_products
from rpln_graphs.quantization.quantizers import Array
from rpln_graphs.rewriting.base import NO_BLOCKS, ExplainingPass, refused
from rpln_graphs.rewriting.initializers import initializer_from_array
from rpln_graphs.rewriting.nodes import set_type, take_place
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.rewriting.values import maker, operand, tensor_of

DOMAIN: Final = "com.microsoft"
IN_INTEGERS: Final = 4
"""The accuracy_level that lets activations be rounded to 8 bits (rule 2)."""


class FuseQuantizedWeights(ExplainingPass):
    """A pass that fuses products with weights in blocks, and counts them."""

    def formula(self, traits: GraphTraits) -> int:
        """Return the number of products in the layers."""
        return number_of_products(traits)

    def rewrite(self, model: ir.Model) -> int:
        fused, refusals = 0, []
        for node in list(model.graph):
            if node.op_type != "MatMul" or node.domain:
                continue
            widened = maker(node.inputs[1], "DequantizeLinear")
            if widened is None:
                block = block_of(operand(node, 1).name or "")
                refusals += [] if block is None else [refused(node, NO_BLOCKS)]
                continue
            fused += counts(operand(node, 1).name or "")
            _fuse(model.graph, node, widened)
        if fused:
            model.opset_imports.setdefault(DOMAIN, 1)
        self.record(model, refusals)
        return fused


def _fuse(graph: ir.Graph, matmul: ir.Node, widened: ir.Node) -> None:
    """Put a MatMulNBits in the place of a product and its DequantizeLinear (rules 1 and 2)."""
    name = widened.outputs[0].name or ""
    weight, scales = operand(widened, 0), operand(widened, 1)
    size = widened.attributes.get_int("block_size", 0)
    bits = 4 if weight.dtype == ir.DataType.INT4 else 8
    rows, columns = tensor_of(weight).shape.numpy()
    stored = [
        _stored(graph, f"{name}.blocks", lambda: _laid_out(tensor_of(weight).numpy(), bits=bits, size=size)),
        _stored(graph, f"{name}.scales", lambda: np.ascontiguousarray(tensor_of(scales).numpy().T).reshape(-1)),
    ]
    attributes = {"K": rows, "N": columns, "bits": bits, "block_size": size, "accuracy_level": IN_INTEGERS}
    fused = ir.node("MatMulNBits", [operand(matmul, 0), *stored], attributes, domain=DOMAIN, name=matmul.name)
    old = matmul.outputs[0]
    set_type(fused.outputs[0], old.dtype, old.shape)
    graph.insert_before(matmul, fused)
    take_place(fused.outputs[0], old)
    graph.remove(matmul, safe=True)
    if not widened.outputs[0].uses():
        graph.remove(widened, safe=True)
        for constant in (weight, scales):
            del graph.initializers[constant.name or ""]


def _stored(graph: ir.Graph, name: str, compute: Callable[[], Array]) -> ir.Value:
    """Return the initializer called `name`, which is computed for the first of the products that share it."""
    if name not in graph.initializers:
        graph.register_initializer(initializer_from_array(name, compute()))
    return graph.initializers[name]


def _laid_out(integers: Array, *, bits: int, size: int) -> Array:
    """Return integers [K, N] as bytes [N, K / size, size * bits / 8] (rule 1)."""
    rows, columns = integers.shape
    shifted = (integers.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
    blocks = np.ascontiguousarray(shifted.T).reshape(columns, rows // size, size)
    return blocks if bits == 8 else blocks[..., 0::2] | blocks[..., 1::2] << 4
