"""LN(x; g, b) W -> LN(x; g / s, b / s) (diag(s) W): channels that reach far are divided before they are rounded.

Rules:
1. The factors s are given (Context.factors, measured by quantization/equalize.py). They are powers of two: in fp32 the
   graph computes the same to the last bit.
2. A LayerNorm's scale and bias, which stand in the graph even where the affine was folded, are divided; rows of the
   weights that read it are multiplied. So no node is added.
3. What an attention's output projection reads is divided in the value projection, (P V) W -> (P V / s) (diag(s) W).
   The probabilities P do not mix channels. No cache holds the values, because static forms are for encoders.
4. No other activation is divided: before the second product of a feed-forward stands a GELU, through which no factor
   can be moved.
"""

from functools import partial
from typing import Self

import numpy as np
import onnx_ir as ir

from rpln_graphs.quantization.equalize import equalizable_activations
from rpln_graphs.quantization.quantizers import Array, ChannelValues
from rpln_graphs.rewriting.base import Context, CountingPass
from rpln_graphs.rewriting.initializers import change_initializer


class EqualizeChannels(CountingPass):
    """A pass that equalizes the channels of activations, and counts these activations."""

    def __init__(self, *, factors: ChannelValues | None = None) -> None:
        self.factors = factors or {}

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        return cls(factors=context.factors)

    def rewrite(self, model: ir.Model) -> int:
        places = [place for place in equalizable_activations(model) if place.name in self.factors]
        for place in places:
            factors = self.factors[place.name]
            for constant in place.makers:
                change_initializer(constant, partial(_scaled, by=1 / factors))
            for weight in place.readers:
                change_initializer(weight, partial(_scaled, by=factors[:, np.newaxis]))
        return len(places)


def _scaled(array: Array, *, by: Array) -> Array:
    return np.asarray(array * by)  # exact, and so is one divided by a power of two
