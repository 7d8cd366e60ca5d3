"""The products that are quantized: those of the layers' activations with weights.

The head's last product decides, and costs little; it stays in fp32. So does the projection onto the vocabulary, whose
weight is often the table of embeddings.
"""

import re
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.rewriting.values import is_constant, operand, tensor_of

_IN_LAYER: Final = re.compile(r"(?P<layer>.*\blayer\.\d+)\.(?P<attention>attention|crossattention)?")
"""The beginning of the names in a layer, as the network's modules are called."""
FEED_FORWARD: Final = "feed_forward"
"""What the two products behind a layer's attentions are called together."""
_MEMORY: Final = re.compile(r".*\.crossattention\.self\.(key|value)\.")
"""The names of what projects an encoder's output to keys and values."""
PRODUCTS_OF_LAYER: Final = 6
"""Queries, keys, values, the projection of what is attended to, and two products of the feed-forward."""
PRODUCTS_OF_CROSS_ATTENTION: Final = 2
"""Queries, and the projection of what is attended to. Another graph may compute keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProduct:
    """A product of a layer: MatMul(activation [..., K], weight [K, N]), whose weight is constant.

    `block` is the part of the network that it belongs to, such as encoder.layer.3.attention or
    encoder.layer.3.feed_forward.
    """

    matmul: ir.Node
    block: str

    @property
    def counted(self) -> bool:
        """Whether formulas count the product."""
        return counts(self.weight.name or "")

    @property
    def activation(self) -> ir.Value:
        """The product's first operand."""
        return operand(self.matmul, 0)

    @property
    def weight(self) -> ir.Value:
        """The product's second operand."""
        return operand(self.matmul, 1)


def layer_products(model: ir.Model) -> list[LayerProduct]:
    """Return the products of all layers in their order."""
    found = []
    for node in model.graph:
        if node.op_type != "MatMul" or node.domain or not is_constant(node.inputs[1]):
            continue
        block = block_of(operand(node, 1).name or "")
        if block is not None and len(tensor_of(operand(node, 1)).shape) == 2:  # [K, N]
            found.append(LayerProduct(matmul=node, block=block))
    return found


def block_of(name: str) -> str | None:
    """Return the block that a weight with this name belongs to; None if it belongs to no layer."""
    match = _IN_LAYER.match(name)
    return None if match is None else f"{match['layer']}.{match['attention'] or FEED_FORWARD}"


def counts(name: str) -> bool:
    """Return whether formulas count a product whose weight has this name.

    The keys and values of a cross-attention are quantized, too, but which graph computes them differs.
    """
    return block_of(name) is not None and not _MEMORY.match(name)


def number_of_products(traits: GraphTraits) -> int:
    """Return the number of products that are counted in the layers of a graph with these traits."""
    crossing = traits.attentions - traits.layers
    return PRODUCTS_OF_LAYER * traits.layers + PRODUCTS_OF_CROSS_ATTENTION * crossing
