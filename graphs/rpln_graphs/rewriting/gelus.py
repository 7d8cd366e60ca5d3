"""The common part of the two passes that fuse gelus into operators of ONNX Runtime.

Both operators may add a bias first. Both gelus are also found where they are written out, as in opsets before 20.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.rewriting.base import PARTLY_FLOAT32, Refusal, refused
from rpln_graphs.rewriting.fusing import FLOATS, FusingPass
from rpln_graphs.rewriting.values import maker, number, same_shape

MIXED_TYPES: Final = "it is not computed in one floating type"
OTHER_GELU: Final = "its `approximate` attribute asks for the other gelu"
NO_BIAS: Final = "the value added before it is not a bias as long as the last axis"
UNKNOWN_CONSTANTS: Final = "its constants are not known"
OTHER_CONSTANTS: Final = "its constants are not those of gelu"

BETWEEN: Final = frozenset({"Add", "Div", "Erf", "Mul", "Pow", "Tanh"})
"""The operators of a gelu that is written out."""


class GeluPass(FusingPass):
    """A fusion of gelus of one kind.

    `approximate` is the attribute of a Gelu of this kind, and `heart` the operator in the middle of one written out.
    """

    anchor: ClassVar[str] = "Gelu"
    approximate: ClassVar[str]
    heart: ClassVar[str]

    def refusals(self, model: ir.Model) -> list[Refusal]:
        """Return the gelus of this kind that are left, and those written out with Casts between their operators."""
        own = {node.name for node in model.graph if node.op_type == self.anchor and kind_of(node) == self.approximate}
        left = [refusal for refusal in super().refusals(model) if refusal.node in own]
        mixed = [node for node in model.graph if node.op_type == self.heart and _changes_type(node)]
        return [*left, *(refused(node, PARTLY_FLOAT32) for node in mixed)]


def kind_of(gelu: ir.Node) -> str:
    """Return the `approximate` attribute of a Gelu: "none" or "tanh"."""
    return gelu.attributes.get_string("approximate", "none") or "none"


def gelu_obstacle(
    gelu: ir.Value,
    x: ir.Value,
    bias: ir.Value | None,
    *,
    approximate: str,
    constants: Mapping[str, ir.Value],
    numbers: Mapping[str, float],
) -> str | None:
    """Return why `gelu` is not the gelu of this kind of `x` + `bias`, or None if it is.

    `constants` are the values matched in a gelu written out, and `numbers` what they must be, by the same names.
    """
    if gelu.dtype not in FLOATS or x.dtype != gelu.dtype or (bias is not None and bias.dtype != gelu.dtype):
        return MIXED_TYPES
    node = maker(gelu, "Gelu")
    if node is not None and kind_of(node) != approximate:
        return OTHER_GELU
    if bias is not None and (x.shape is None or not same_shape(bias.shape, x.shape[-1:])):
        return NO_BIAS
    found = {name: number(value) for name, value in constants.items()}
    if None in found.values():
        return UNKNOWN_CONSTANTS
    # Compared in the graph's type: in fp16 a gelu has other constants than in fp32, and many functions are nearly gelu.
    assert gelu.dtype is not None
    rounded = {name: float(np.float32(wanted).astype(gelu.dtype.numpy())) for name, wanted in numbers.items()}
    return None if all(value == rounded[name] for name, value in found.items()) else OTHER_CONSTANTS


def _changes_type(heart: ir.Node) -> bool:
    """Return whether `heart` is in a gelu that is computed in two types."""
    scaled = maker(heart.inputs[0], "Cast", "Div", "Mul") is not None
    return scaled and any(node.op_type == "Cast" for node in _around(heart))


def _around(heart: ir.Node) -> Iterator[ir.Node]:
    """Yield `heart`, the operators of a gelu connected to it, and the nodes next to these."""
    seen, todo = {heart}, [heart]
    while todo:
        node = todo.pop()
        yield node
        if node.op_type in BETWEEN:
            beside = {*node.predecessors(), *node.successors()} - seen
            seen |= beside
            todo += beside
