"""The attention mask as it is traced: (1 - Cast(ones)) * least, which is added to the scores before the Softmax."""

from dataclasses import dataclass
from typing import Final, Self

import onnx_ir as ir

from rpln_graphs.rewriting.values import contents, maker, number, same_size

BATCH, HEADS, QUERIES, KEYS = range(4)
"""The axes of attention scores, and of a mask."""
WHOLE: Final = frozenset({ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64})
"""The types of masks before they are made an addend."""
SELECTING: Final = ("Gather", "Slice")
"""The operators by which SelectRows may have picked rows of a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """A mask [batch, 1, queries or 1, keys]: `least` is added to the scores where `ones`, of whole numbers, is 0.

    With a `selection`, the addend has rows that this node picked.
    """

    ones: ir.Value
    least: float
    shape: ir.Shape
    selection: ir.Node | None = None

    @classmethod
    def from_addend(cls, addend: ir.Value) -> Self | None:
        """Return the mask that `addend` was made of, or None if it was made of something else."""
        selection = maker(addend, *SELECTING)
        inverted, least = _operands(addend if selection is None else selection.inputs[0], "Mul")
        one, ones = _operands(_uncast(inverted), "Sub")
        ones, lowest = _uncast(ones), number(least)
        if ones is None or addend.shape is None or ones.dtype not in WHOLE or number(one) != 1 or lowest is None:
            return None
        return cls(ones=ones, least=lowest, shape=addend.shape, selection=selection)

    def fits(self, scores: ir.Shape) -> bool:
        """Return whether the mask has scores of this shape for each text, and one mask for all heads."""
        if len(self.shape) != len(scores) or self.shape[HEADS] != 1:
            return False
        axes = [BATCH, KEYS] if self.shape[QUERIES] == 1 else [BATCH, QUERIES, KEYS]
        return all(same_size(self.shape[axis], scores[axis]) for axis in axes)


def before_unsqueeze(value: ir.Value, axes: list[int]) -> ir.Value | None:
    """Return the value that an Unsqueeze gave `axes` to make `value`, or None if no such node did."""
    node = maker(value, "Unsqueeze")
    given = None if node is None else contents(node.inputs[1])
    return node.inputs[0] if node is not None and given is not None and given.tolist() == axes else None


def _operands(value: ir.Value | None, operator: str) -> tuple[ir.Value | None, ir.Value | None]:
    """Return the two inputs of the `operator` that makes `value`; None twice if another one does."""
    node = maker(value, operator)
    return (None, None) if node is None else (node.inputs[0], node.inputs[1])


def _uncast(value: ir.Value | None) -> ir.Value | None:
    """Return `value` as it was before any Casts."""
    while (node := maker(value, "Cast")) is not None:
        value = node.inputs[0]
    return value
