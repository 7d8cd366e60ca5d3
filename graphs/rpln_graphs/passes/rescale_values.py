"""V -> 2^-k V, (P V) W_o -> (P 2^-k V) (2^k W_o): attention values stay in the range of fp16, the output is unchanged.

The rows of a softmax sum to 1, so the context P V is no larger than V. Multiplying weight and bias of the value
projection by a power of two, and the output projection's weight by its inverse, is exact. Each attention gets the
smallest k that it needs.

A decoder's cache holds the scaled values. Cross-attention has its value projection in the encoder's graph and its
output projection in the decoder's: each graph scales what it has, by the ranges that both share.
"""

import re
from collections.abc import Mapping
from typing import Self

import onnx_ir as ir

from rpln_graphs.rewriting.base import Context, CountingPass
from rpln_graphs.rewriting.initializers import scale_initializer
from rpln_graphs.rewriting.ranges import Ranges, shift_for_range

VALUE = ".self.value"
"""What the name of an attention's value projection ends in."""


class RescaleValues(CountingPass):
    """A pass that scales the values of attentions down. It counts these attentions: 0 if all values fit as they are."""

    calibrated = True

    def __init__(self, *, shifts: Mapping[str, int]) -> None:
        self.shifts = shifts

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        projected = re.compile(rf"(.*){re.escape(VALUE)}\.weight\.T|(.*crossattention)\.output\.dense\.weight\.T")
        found = (projected.fullmatch(name) for name in model.graph.initializers)
        attentions = dict.fromkeys(match[1] or match[2] for match in found if match)
        shifts = {attention: shift_for_range(_value_peak(attention, context.ranges)) for attention in attentions}
        return cls(shifts={attention: shift for attention, shift in shifts.items() if shift})

    def rewrite(self, model: ir.Model) -> int:
        initializers = model.graph.initializers
        for attention, shift in self.shifts.items():
            factors = {
                f"{attention}{VALUE}.weight.T": 2.0**-shift,
                f"{attention}{VALUE}.bias": 2.0**-shift,
                f"{attention}.output.dense.weight.T": 2.0**shift,
            }
            for name in factors.keys() & initializers.keys():
                scale_initializer(initializers[name], factors[name])
        return len(self.shifts)


def _value_peak(attention: str, ranges: Ranges) -> float:
    """Return the largest magnitude in the attention's value projection, before and after its bias is added.

    In the decoder's graph a cross-attention has only the result of that projection, as an input.
    """
    module = f"{attention}{VALUE}."
    parameters = {f"{module}weight.T", f"{module}bias"}
    layer = attention.removesuffix(".crossattention").rpartition(".")[2]
    given = f"cross_key_values.{layer}.value" if attention.endswith("crossattention") else None
    return max(
        peak for name, peak in ranges.items() if name == given or (name.startswith(module) and name not in parameters)
    )
