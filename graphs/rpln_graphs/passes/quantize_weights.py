"""x W -> x DequantizeLinear(W): weights of the layers in 8 or 4 bits; activations stay as they are.

Rules:
1. A column of a weight is cut into blocks, each with a scale of its own, in the type of the weight; or a whole column
   is one block. A weight whose sizes give no blocks that kernels take stays as it is.
2. Products that share a weight share its DequantizeLinear, which has the name of the weight, by which other code finds
   it. Blocks need opset 21.
3. A weight may have been rounded beforehand, for the inputs of its product (Context.weights).
4. A product stays as it is if its block of layers is in Context.kept.

ONNX Runtime computes both nodes as one MatMulNBits; TensorRT, as one kernel that reads the integers.
"""

from collections.abc import Mapping, Sequence
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
OPSET_OF_HALF_SCALES: Final = 19
"""The first opset in which DequantizeLinear takes scales in fp16."""


class QuantizeWeights(QuantizingPass):
    """A pass that quantizes the weights of products, and counts them. The rows below say in how many bits.

    Attributes:
        bits: the bits of a value.
        dtype: the type that holds it.
        smallest_block: the fewest rows of a block that kernels take.
        largest_block: the most rows of a block; 0 where a whole column is one block.
        fewest_blocks: the fewest blocks of a column that kernels take.
        sizes_divide_by: what the number of rows and that of columns must be multiples of.
        positive: whether scales must be positive.
        error_aware: whether weights that are rounded for their inputs are worth the time they take.
    """

    bits: ClassVar[int]
    dtype: ClassVar[Any]
    smallest_block: ClassVar[int] = 16
    largest_block: ClassVar[int]
    fewest_blocks: ClassVar[int] = 1
    sizes_divide_by: ClassVar[int] = 1
    positive: ClassVar[bool] = False
    error_aware: ClassVar[bool] = False

    def __init__(self, *, weights: Mapping[bytes, Blocks] | None = None, kept: frozenset[str] = frozenset()) -> None:
        super().__init__(kept=kept)
        self.weights = weights or {}

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        return cls(weights=context.weights, kept=context.kept)

    @classmethod
    def rounded_for_inputs(cls, weight: Array, factor: Array) -> Blocks | None:
        """Return a weight [K, N] rounded for inputs with this `compensation` [K, K]; None if it has no blocks."""
        size = cls.size_of_blocks(weight.shape)
        if size is None:
            return None
        return error_aware_blocks(weight, factor, bits=cls.bits, size=size, positive=cls.positive)

    @classmethod
    def size_of_blocks(cls, shape: Sequence[int]) -> int | None:
        """Return how many rows of a weight of this `shape` [K, N] are a block; None if it gives no blocks."""
        rows, columns = shape
        if rows % cls.sizes_divide_by or columns % cls.sizes_divide_by:
            return None
        size = block_size(rows, least=cls.smallest_block, most=cls.largest_block) if cls.largest_block else rows
        return size if size is not None and size * cls.fewest_blocks <= rows else None

    def rewrite(self, model: ir.Model) -> int:
        quantized, refusals = 0, []
        weights: dict[ir.Value, ir.Node] = {}
        for product in layer_products(model):
            size = self.size_of_blocks(tensor_of(product.weight).shape.numpy())
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
        integers, scales = rounded or quantized_blocks(weight, bits=self.bits, size=size, positive=self.positive)
        in_blocks = self.largest_block > 0
        arrays = {QUANTIZED: integers.astype(self.dtype), SCALE: scales if in_blocks else scales[0]}
        return insert_weight(graph, product, arrays, {"axis": 0, "block_size": size} if in_blocks else {"axis": 1})


class QuantizeWeightsTo8(QuantizeWeights):
    """Weights in 8 bits, in blocks of up to 64.

    ONNX Runtime rounds activations in blocks of this size, too: 128 would be a tenth to a third faster, and cost the
    embedded decoder three times as much of its perplexity.
    """

    bits = 8
    dtype = "int8"
    largest_block = 64


class QuantizeWeightsTo4(QuantizeWeights):
    """Weights in 4 bits, in blocks of up to 128.

    Smaller blocks are a little more accurate, but steps of a base-size decoder take a sixth longer with 32.
    """

    bits = 4
    dtype = ml_dtypes.int4
    largest_block = 128
    error_aware = True


class QuantizeColumnsTo8(QuantizeWeights):
    """Weights in 8 bits for TensorRT, whose kernels unpack 8 bits as they multiply if a whole column has one scale."""

    bits = 8
    dtype = "int8"
    largest_block = 0
    sizes_divide_by = 8
    positive = True


class QuantizeBlocksOf64To4(QuantizeWeights):
    """Weights in 4 bits for TensorRT, in the smaller one of the sizes that NVIDIA documents for blocks, 64 and 128.

    Its kernels unpack 4 bits as they multiply if a column has several blocks.
    """

    bits = 4
    dtype = ml_dtypes.int4
    smallest_block = 64
    largest_block = 64
    fewest_blocks = 2
    sizes_divide_by = 8
    positive = True
    error_aware = True
