"""What the two gelus of ONNX Runtime share: a bias may be inside, and they are found written out as well."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

from rpln_graphs.rewriting.base import PARTLY_FLOAT32, Refusal
from rpln_graphs.rewriting.contrib import FLOATS, ContribPass, same_sizes

BETWEEN: Final = frozenset({"Add", "Div", "Erf", "Mul", "Pow", "Tanh"})
"""Operators of a gelu that is written out."""


class GeluPass(ContribPass):
    """Fuses gelus of one kind. `heart` is the operator in the middle of one that is written out."""

    anchor: ClassVar[str] = "Gelu"
    approximate: ClassVar[str]
    heart: ClassVar[str]

    def refusals(self, model: ir.Model) -> list[Refusal]:
        """Of gelus of this kind, and of those written out in which types change."""
        own = {node.name for node in model.graph if node.op_type == self.anchor and kind_of(node) == self.approximate}
        left = [refusal for refusal in super().refusals(model) if refusal.node in own]
        mixed = [node for node in model.graph if node.op_type == self.heart and _changes_type(node)]
        return [*left, *(Refusal(node=node.name or "", reason=PARTLY_FLOAT32) for node in mixed)]


def kind_of(gelu: ir.Node) -> str:
    """Which gelu it is, in the words of ONNX."""
    return gelu.attributes.get_string("approximate", "none") or "none"


def check_gelu(match: Mapping[str, Any], *, approximate: str, constants: Mapping[str, float]) -> pattern.MatchResult:
    """Whether what was matched as `x`, `bias` and `gelu` is a gelu of this kind, its constants exactly these."""
    result = pattern.MatchResult()
    gelu, x, bias = match["gelu"], match["x"], match.get("bias")
    if gelu.dtype not in FLOATS or x.dtype != gelu.dtype or (bias is not None and bias.dtype != gelu.dtype):
        return result.fail("it is not computed in one floating type")
    if gelu.producer().op_type == "Gelu" and kind_of(gelu.producer()) != approximate:
        return result.fail(f"it is not the gelu that is called {approximate}")
    if bias is not None and (x.shape is None or not same_sizes(bias.shape, x.shape[-1:])):
        return result.fail("what is added is not a bias as long as the last axis")
    found = {name: match[name].const_value for name in constants if match.get(name) is not None}
    if any(tensor is None or tensor.size != 1 for tensor in found.values()):
        return result.fail("its constants are not known")
    # Rounded to the graph's type: a gelu in fp16 has other constants than one in fp32, and there are many near-gelus.
    if any(
        tensor.numpy() != np.float32(constants[name]).astype(tensor.numpy().dtype) for name, tensor in found.items()
    ):
        return result.fail("its constants are not those of gelu")
    return result


def _changes_type(heart: ir.Node) -> bool:
    """Whether a gelu around `heart` is computed in two types, with Casts between."""
    return any(node.op_type == "Cast" for node in _around(heart)) and _scales(heart.inputs[0])


def _scales(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    return node is not None and node.op_type in {"Cast", "Div", "Mul"}


def _around(heart: ir.Node) -> Iterator[ir.Node]:
    """The nodes of what is computed element by element around `heart`, and those next to them."""
    seen, todo = {heart}, [heart]
    while todo:
        node = todo.pop()
        yield node
        if node.op_type in BETWEEN:
            beside = {*node.predecessors(), *node.successors()} - seen
            seen |= beside
            todo += beside
