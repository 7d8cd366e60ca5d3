"""x -> 2^-k x in the whole residual stream, LayerNorm(x; eps) -> LayerNorm(x; eps 4^-k): fp16 range, same outputs.

In a pre-LayerNorm network every reader of the residual stream is a LayerNorm, and LN(s x; s^2 eps) = LN(x; eps). So:
1. Whatever is added into the stream is multiplied by s = 2^-k: weight and bias of the embedding LayerNorm, of each
   attention's and cross-attention's output projection, and of each feed-forward output projection. A power of two
   changes exponents only, so the fold is exact.
2. Every LayerNorm that reads the stream gets eps s^2 (statistics are computed in fp32: stash_type = 1).
3. Exported hidden states are the stream itself: they are multiplied by 1/s on their way out.

k is the smallest that leaves the headroom of `SAFE_FLOAT16` over the largest value measured.
"""

import math
import re
from typing import Final, Self

import numpy as np
import onnx_ir as ir

from rpln_graphs.errors import PassError
from rpln_graphs.rewriting.base import (
    SAFE_FLOAT16,
    Context,
    CountingPass,
    GraphTraits,
    Ranges,
    residual_norms,
)
from rpln_graphs.rewriting.initializers import initializer_from_array, scale_initializer

SHIFT_KEY: Final = "rpln.residual_shift"
PEAK_KEY: Final = "rpln.residual_peak"

WRITERS: Final = re.compile(
    r"embeddings\.LayerNorm\.(weight|bias)"
    r"|encoder\.layer\.\d+\.((cross)?attention\.)?output\.dense\.(weight\.T|bias)"
)


class RescaleResidual(CountingPass):
    """Counts the weights scaled and the epsilons changed; none where the stream fits as it is."""

    calibrated = True

    def __init__(self, *, shift: int, peak: float) -> None:
        self.shift = shift
        self.peak = peak

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        peak = residual_peak(model, context.ranges)
        return cls(shift=shift_for_range(peak), peak=peak)

    def expected(self, traits: GraphTraits) -> int | None:
        if not self.shift:
            return 0
        blocks = 3 if traits.cross_attention else 2
        weights = 2 + 2 * blocks * traits.layers
        epsilons = 1 + blocks * traits.layers
        return weights + epsilons

    def rewrite(self, model: ir.Model) -> int:
        model.metadata_props[SHIFT_KEY] = str(self.shift)
        model.metadata_props[PEAK_KEY] = repr(self.peak)
        if not self.shift:
            return 0
        scale = 2.0**-self.shift
        writers = [value for name, value in model.graph.initializers.items() if WRITERS.fullmatch(name)]
        readers = residual_norms(model).values()
        if len(writers) != 2 * len(readers):
            raise PassError(
                f"RescaleResidual found {len(writers)} weights that write to the residual stream and {len(readers)} "
                f"LayerNorms that read it, each going with a weight and a bias: {', '.join(residual_norms(model))}."
            )
        for value in writers:
            scale_initializer(value, scale)  # rule 1
        for node in readers:
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", node.attributes["epsilon"].as_float() * scale**2)
        _unscale_hidden_states(model, 1 / scale)  # rule 3
        return len(writers) + len(readers)


def shift_for_range(peak: float) -> int:
    """The smallest k >= 0 with peak * 2^-k <= SAFE_FLOAT16."""
    return max(0, math.ceil(math.log2(max(peak, 1.0) / SAFE_FLOAT16)))


def residual_peak(model: ir.Model, ranges: Ranges) -> float:
    """The largest magnitude in the residual stream: that of what its LayerNorms read; 0 where there is none."""
    values = [node.inputs[0] for node in residual_norms(model).values()]
    return max((ranges[value.name or ""] for value in values if value is not None), default=0.0)


def _unscale_hidden_states(model: ir.Model, factor: float) -> None:
    for position, output in enumerate(model.graph.outputs):
        if not (output.name or "").startswith("hidden_states."):
            continue
        name = output.name
        output.name = f"{name}.scaled"
        constant = initializer_from_array(f"{name}.unscale", np.array(factor, dtype=np.float32))
        model.graph.register_initializer(constant)
        node = ir.node("Mul", [output, constant], name=f"{name}.Mul")
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, output.shape, output.type
        model.graph.append(node)
        model.graph.outputs[position] = node.outputs[0]
