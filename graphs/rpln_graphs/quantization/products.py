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
PRODUCTS_OF_ATTENTION: Final = 4
"""Queries, keys, values, and the projection of what is attended to."""
PRODUCTS_OF_FEED_FORWARD: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProduct:
    """A product of a layer: MatMul(activation [..., K], weight [K, N]), whose weight is constant.

    `block` is the part of the network that it belongs to, such as encoder.layer.3.attention or
    encoder.layer.3.feed_forward.
    """

    matmul: ir.Node
    block: str

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


def number_of_products(traits: GraphTraits) -> int:
    """Return the number of products in the layers of a graph with these traits."""
    return PRODUCTS_OF_ATTENTION * traits.attentions + PRODUCTS_OF_FEED_FORWARD * traits.layers
