"""The diagram of one layer: its operators in each form, by block and module."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from rpln_export.bundle.layer_nodes import LayerForm, LayerNode

BLOCKS: Final = {"attention": "Attention", "crossattention": "Cross-attention"}
"""The titles of blocks by the first name in the path of a module; all others belong to the feed-forward block."""
FEED_FORWARD: Final = "Feed-forward"
MODULES: Final = (
    ("LayerNorm", "norm"),
    (".self.query", "query"),
    (".self.key", "key"),
    (".self.value", "value"),
    (".self", "attend"),
    ("attention.output", "output"),
    ("intermediate.dense", "expand"),
    ("intermediate", "activate"),
    ("output", "contract"),
)
"""What a module does, by a part of its path: the first row that is in it."""
RESIDUAL: Final = "add"
"""What the layer itself does: it adds each block's output to the residual stream."""
KINDS: Final = {
    "product": frozenset({"MatMul", "MatMulNBits", "MatMulInteger"}),
    "attend": frozenset({"Attention", "MultiHeadAttention", "Softmax"}),
    "norm": frozenset({"LayerNormalization", "SkipLayerNormalization"}),
    "round": frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"}),
}
"""The kinds of operators that the diagram tells apart; others only compute value by value, or move values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Nodes of one module that follow each other in the diagram: what they do, and their operators with their kinds."""

    does: str
    nodes: Sequence[tuple[LayerNode, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of the layer. Each block reads the residual stream and adds to it."""

    title: str
    rows: Sequence[Row]


def blocks_of_layer(form: LayerForm) -> list[Block]:
    """Return the layer's operators by block, and in each block by what they do."""
    titled: list[tuple[str, LayerNode]] = []
    for node in form.nodes:
        title = BLOCKS.get(node.module.split(".")[0], FEED_FORWARD)
        titled.append((titled[-1][0] if not node.module and titled else title, node))
    return [
        Block(title=title, rows=_rows([node for _, node in group]))
        for title, group in groupby(titled, key=lambda pair: pair[0])
    ]


def _rows(nodes: Sequence[LayerNode]) -> list[Row]:
    by_module: dict[str, list[tuple[LayerNode, str]]] = {}
    for node in nodes:
        by_module.setdefault(_does(node.module), []).append((node, _kind(node.operator)))
    order = [does for _, does in MODULES]
    rows = [Row(does=does, nodes=found) for does, found in by_module.items()]
    return sorted(rows, key=lambda row: order.index(row.does) if row.does in order else len(order))


def _does(module: str) -> str:
    return next((does for part, does in MODULES if part in module), RESIDUAL)


def _kind(operator: str) -> str:
    return next((kind for kind, operators in KINDS.items() if operator in operators), "other")
