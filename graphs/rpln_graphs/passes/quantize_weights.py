"""x W -> x DequantizeLinear(W): weights of the layers in 8 or 4 bits, in blocks; activations stay as they are.

Rules:
1. A column of a weight is cut into blocks, each with a scale of its own. Blocks have a size that divides the weight's
   rows and that ONNX Runtime's kernels take; a weight without one stays as it is.
2. Products that share a weight share its DequantizeLinear, which has the name of the weight, by which other code finds
   it. It needs opset 21.
3. A weight may have been rounded beforehand, for the inputs of its product (Context.weights).
4. A product stays as it is if its block of layers is in Context.kept.

ONNX Runtime computes both nodes as one MatMulNBits.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

import ml_dtypes
import onnx_ir as ir

from rpln_graphs.quantization.blocks import Blocks, block_size, identity_of_weight, quantized_blocks
from rpln_graphs.quantization.error_aware import error_aware_blocks
from rpln_graphs.quantization.products import LayerProduct, layer_products
from rpln_graphs.quantization.quantizers import Array
from rpln_graphs.quantization.rounding import QUANTIZED, SCALE, insert_weight, replace_weight
from rpln_graphs.rewriting.base import KEPT_FOR_ACCURACY, NO_BLOCKS, Context, refused
from rpln_graphs.rewriting.quantizing import QuantizingPass
from rpln_graphs.rewriting.values import tensor_of

OPSET: Final = 21
"""The first opset in which DequantizeLinear takes blocks, and 4 bits."""


class QuantizeWeights(QuantizingPass):
    """A pass that quantizes the weights of products, and counts them. The rows below say in how many bits."""

    bits: ClassVar[int]
    dtype: ClassVar[Any]
    largest_block: ClassVar[int]
    error_aware: ClassVar[bool]
    """Whether weights that are rounded for their inputs are worth the time they take."""

    def __init__(self, *, weights: Mapping[bytes, Blocks] | None = None, kept: frozenset[str] = frozenset()) -> None:
        super().__init__(kept=kept)
        self.weights = weights or {}

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        return cls(weights=context.weights, kept=context.kept)

    @classmethod
    def rounded_for_inputs(cls, weight: Array, factor: Array) -> Blocks | None:
        """Return a weight [K, N] rounded for inputs with this `compensation` [K, K]; None if it has no blocks."""
        size = block_size(len(weight), cls.largest_block)
        return None if size is None else error_aware_blocks(weight, factor, bits=cls.bits, size=size)

    def rewrite(self, model: ir.Model) -> int:
        quantized, refusals = 0, []
        weights: dict[ir.Value, ir.Node] = {}
        for product in layer_products(model):
            size = block_size(tensor_of(product.weight).shape.numpy()[0], self.largest_block)
            if product.block in self.kept or size is None:
                refusals.append(refused(product.matmul, KEPT_FOR_ACCURACY if size else NO_BLOCKS))
                continue
            if product.weight not in weights:
                weights[product.weight] = self._insert_weight(model.graph, product, size)
            replace_weight(model.graph, product, weights[product.weight])
            quantized += product.counted
        self.record(model, refusals)
        return quantized

    def _insert_weight(self, graph: ir.Graph, product: LayerProduct, size: int) -> ir.Node:
        """Store the product's weight in integers, and return the node that makes floats of it (rules 1 to 3)."""
        weight = tensor_of(product.weight).numpy()
        rounded = self.weights.get(identity_of_weight(weight)) if self.weights else None
        integers, scales = rounded or quantized_blocks(weight, bits=self.bits, size=size)
        arrays = {QUANTIZED: integers.astype(self.dtype), SCALE: scales}
        return insert_weight(graph, product, arrays, {"axis": 0, "block_size": size})


class QuantizeWeightsTo8(QuantizeWeights):
    """Weights in 8 bits, in blocks of up to 64.

    ONNX Runtime rounds activations in blocks of this size, too: 128 would be a tenth faster, and cost the embedded
    decoder three times as much of its perplexity.
    """

    bits = 8
    dtype = "int8"
    largest_block = 64
    error_aware = False


class QuantizeWeightsTo4(QuantizeWeights):
    """Weights in 4 bits, in blocks of up to 128.

    Smaller blocks are a little more accurate, but steps of a base-size decoder take a sixth longer with 32.
    """

    bits = 4
    dtype = ml_dtypes.int4
    largest_block = 128
    error_aware = True
