"""x W + b -> x W + (b - E[x] (W' - W)), where W' is W as it will be rounded: the mean error of a product is taken back.

Rules:
1. The means E[x] of an activation's channels are measured on texts (Context.means).
2. The bias is a constant that nothing else reads. The product E[x] (W' - W) is summed in fp64.
3. A product stays as it is if its block is in Context.kept.
"""

from functools import partial
from typing import Self

import numpy as np
import onnx_ir as ir

from rpln_graphs.quantization.products import layer_products
from rpln_graphs.quantization.quantizers import (
    Array,
    ChannelValues,
    floats_of_weight,
    quantized_weight,
    scales_of_weight,
)
from rpln_graphs.rewriting.base import Context, CountingPass
from rpln_graphs.rewriting.initializers import change_initializer
from rpln_graphs.rewriting.projections import projection_from_matmul
from rpln_graphs.rewriting.values import tensor_of


class CorrectBiases(CountingPass):
    """A pass that corrects biases before weights are rounded, and counts them."""

    def __init__(self, *, means: ChannelValues | None = None, kept: frozenset[str] = frozenset()) -> None:
        self.means = means or {}
        self.kept = kept

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        return cls(means=context.means, kept=context.kept)

    def rewrite(self, model: ir.Model) -> int:
        corrected = 0
        for product in layer_products(model):
            means, projection = self.means.get(product.activation.name or ""), projection_from_matmul(product.matmul)
            if means is None or projection is None or product.block in self.kept:
                continue
            shift = means @ _rounding_errors(tensor_of(product.weight).numpy())
            change_initializer(projection.bias, partial(_shifted, by=-shift))
            corrected += 1
        return corrected


def _shifted(array: Array, *, by: Array) -> Array:
    return np.asarray(array + by)


def _rounding_errors(weight: Array) -> Array:
    """Return by how much the weight [K, N] will be off, in fp64."""
    scales = scales_of_weight(weight)
    rounded = floats_of_weight(quantized_weight(weight, scales), scales)
    return rounded.astype(np.float64) - weight
