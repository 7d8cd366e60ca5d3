"""x -> 2^-k x in the whole residual stream, LayerNorm(x; eps) -> LayerNorm(x; eps 4^-k): fp16 range, same outputs.

In a pre-LayerNorm network every reader of the residual stream is a LayerNorm, and LN(s x; s^2 eps) = LN(x; eps). So:
1. Everything that is added to the stream is multiplied by s = 2^-k: weight and bias of the embedding LayerNorm, of each
   attention's and cross-attention's output projection, and of each feed-forward output projection. A power of two
   changes exponents only, so no weight is rounded.
2. Every LayerNorm that reads the stream gets eps s^2. Its statistics are computed in fp32 (stash_type = 1).
3. Exported hidden states are the stream itself: they are multiplied by 1/s before they are returned.

k is the smallest number that brings the largest measured value into the safe range of fp16.
"""

import re
from typing import Final, Self

import numpy as np
import onnx_ir as ir

from rpln_graphs.errors import PassError
from rpln_graphs.rewriting.base import Context, CountingPass
from rpln_graphs.rewriting.initializers import scale_initializer, shared_initializer
from rpln_graphs.rewriting.nodes import typed_node
from rpln_graphs.rewriting.ranges import Ranges, shift_for_range
from rpln_graphs.rewriting.residual_stream import residual_norms
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.rewriting.values import operand

SHIFT_KEY: Final = "rpln.residual_shift"
"""The key of the model's metadata that holds k."""
PEAK_KEY: Final = "rpln.residual_peak"
"""The key of the model's metadata that holds the largest magnitude in the stream, before scaling."""

WRITERS: Final = re.compile(
    r"embeddings\.LayerNorm\.(weight|bias)"
    r"|encoder\.layer\.\d+\.((cross)?attention\.)?output\.dense\.(weight\.T|bias)"
)
"""The names of the weights and biases whose result is added to the stream."""


class RescaleResidual(CountingPass):
    """A pass that scales the residual stream down. It counts what it changed: 0 if the stream fits as it is.

    It changes weights, biases and epsilons.
    """

    calibrated = True

    def __init__(self, *, shift: int, peak: float) -> None:
        self.shift = shift
        self.peak = peak

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        peak = residual_peak(model, context.ranges)
        return cls(shift=shift_for_range(peak), peak=peak)

    def expected(self, traits: GraphTraits) -> int:
        """Return a weight, a bias and an epsilon for each block, and for the embeddings with the final LayerNorm."""
        return 3 * (traits.blocks + 1) if self.shift else 0

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
                f"RescaleResidual found {len(writers)} weights and biases that write to the residual stream, and "
                f"{len(readers)} LayerNorms that read it: each should go with two of them. The LayerNorms are "
                f"{', '.join(residual_norms(model))}. "
                "Please report it (rpln doctor)."
            )
        for value in writers:
            scale_initializer(value, scale)  # rule 1
        for node in readers:
            epsilon = node.attributes["epsilon"].as_float() * scale**2  # rule 2
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)
        _unscale_hidden_states(model.graph, 1 / scale)
        return len(writers) + len(readers)


def residual_peak(model: ir.Model, ranges: Ranges) -> float:
    """Return the largest magnitude in the residual stream, which LayerNorms read; 0 if the graph has no stream."""
    read = [operand(node, 0) for node in residual_norms(model).values()]
    return max((ranges[value.name or ""] for value in read), default=0.0)


def _unscale_hidden_states(graph: ir.Graph, factor: float) -> None:
    """Multiply the hidden states among the outputs by `factor` (rule 3)."""
    for position, output in enumerate(graph.outputs):
        name = output.name or ""
        if not name.startswith("hidden_states."):
            continue
        output.name = f"{name}.scaled"
        constant = shared_initializer(graph, f"{name}.unscale", np.array(factor, dtype=np.float32))
        node = typed_node("Mul", [output, constant], name=name, dtype=output.dtype, shape=output.shape)
        node.name = f"{name}.Mul"
        graph.append(node)
        graph.outputs[position] = node.outputs[0]
