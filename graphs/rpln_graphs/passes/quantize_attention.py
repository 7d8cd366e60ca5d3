"""queries, keys -> DequantizeLinear(QuantizeLinear(queries)), the same for keys: scores of attentions in 8 bits.

Rules:
1. They are rounded right behind the bias of their projection, before heads are separated. Then OpenVINO lets the
   projection give out integers, and moves integers through Reshape and Transpose up to the product of the scores.
2. Each has one scale and one zero point, measured beforehand (Context.quantizers).
3. An attention stays as it is if its block is in Context.kept.
"""

import re
from typing import Final

import onnx_ir as ir

from rpln_graphs.quantization.products import block_of
from rpln_graphs.quantization.rounding import insert_rounding
from rpln_graphs.rewriting.base import refused
from rpln_graphs.rewriting.quantizing import QuantizingPass
from rpln_graphs.rewriting.traits import GraphTraits

_PROJECTED: Final = re.compile(r".*\.(query|key)\.Add")
"""The names of the queries and keys of an attention, behind the bias of their projection."""


class QuantizeAttention(QuantizingPass):
    """A pass that rounds queries and keys, and counts them."""

    quantized = True

    def formula(self, traits: GraphTraits) -> int:
        """Return two for each attention."""
        return 2 * traits.attentions

    def rewrite(self, model: ir.Model) -> int:
        rounded, refusals = 0, []
        for node in projected_for_scores(model):
            value = node.outputs[0]
            reason = self.why_not(block_of(value.name or ""), value)
            if reason is not None:
                refusals.append(refused(node, reason))
                continue
            readers = [(use.node, use.idx) for use in value.uses()]
            result = insert_rounding(model.graph, value, self.quantizers[value.name or ""])
            for reader, position in readers:
                reader.replace_input_with(position, result)
            rounded += 1
        self.record(model, refusals)
        return rounded


def projected_for_scores(model: ir.Model) -> list[ir.Node]:
    """Return the nodes that compute the queries and keys of the layers' attentions, bias included."""
    return [node for node in model.graph if _PROJECTED.fullmatch(node.outputs[0].name or "")]
