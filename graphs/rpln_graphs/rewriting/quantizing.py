"""The base class of passes that quantize the layers of a network, and leave some of their blocks as they are."""

from typing import Final, Self

import onnx_ir as ir

from rpln_graphs.quantization.products import number_of_products
from rpln_graphs.quantization.quantizers import Quantizers
from rpln_graphs.rewriting.base import KEPT_FOR_ACCURACY, Context, ExplainingPass
from rpln_graphs.rewriting.traits import GraphTraits

NOT_MEASURED: Final = "the range of its activation was not measured"


class QuantizingPass(ExplainingPass):
    """A pass that quantizes products of the layers, and counts them.

    Attributes:
        quantizers: the quantizers of activations, which a `quantized` pass reads.
        kept: the blocks that are not quantized.
    """

    def __init__(self, *, quantizers: Quantizers | None = None, kept: frozenset[str] = frozenset()) -> None:
        self.quantizers = quantizers or {}
        self.kept = kept

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        return cls(quantizers=context.quantizers, kept=context.kept)

    def formula(self, traits: GraphTraits) -> int:
        """Return the number of products in the layers."""
        return number_of_products(traits)

    def why_not(self, block: str | None, activation: ir.Value) -> str | None:
        """Return why an `activation` that is read in this block is not rounded; None if it is."""
        if block in self.kept:
            return KEPT_FOR_ACCURACY
        return None if activation.name in self.quantizers else NOT_MEASURED
