"""Selections of rows of values [batch, rows, hidden], and how to select the same rows of another value."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import onnx_ir as ir

from rpln_graphs.rewriting.initializers import shared_initializer
from rpln_graphs.rewriting.nodes import set_type
from rpln_graphs.rewriting.values import Size, axis_of, contents, maker, operand, rank, same_size

BATCH, ROWS, RANK = 0, 1, 3
"""The axes of the batch and of the rows, and the number of axes."""
ALONG_ROWS: Final = ([1], [-2])
"""The axes input of a Slice that goes along the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection(ABC):
    """A node that selects `size` rows of `source`, [batch, rows, hidden].

    `axes` are the axes of `source` that the node selects along: rows alone, or the rows of each text of the batch. The
    selected rows have as many axes as the source; if the node itself dropped one, which then had size 1, that is
    `dropped`. With `merges`, the rows of all texts come in one list, [1, size, hidden].
    """

    node: ir.Node
    source: ir.Value
    size: Size
    dropped: int | None = None

    axes: ClassVar[tuple[int, ...]] = (BATCH, ROWS)
    merges: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def from_node(cls, node: ir.Node, source: ir.Value, result: ir.Shape) -> Self | None:
        """Return the selection that `node` makes of `source`, or None if it makes none of this kind."""

    @abstractmethod
    def select_from(self, value: ir.Value, axes: tuple[int, ...], graph: ir.Graph) -> list[ir.Node]:
        """Return nodes, the last of which selects the same rows of `value`, where they lie along `axes`."""

    def can_select_from(self, value: ir.Value, axes: tuple[int, ...]) -> bool:
        """Return whether `select_from` can select rows of `value`."""
        return axes == self.axes

    def narrowed(self, shape: ir.Shape, axes: tuple[int, ...]) -> ir.Shape:
        """Return `shape` with the selected rows only."""
        sizes = list(shape)
        sizes[axes[-1]] = self.size
        if self.merges:
            sizes[axes[0]] = 1
        return ir.Shape(sizes)

    def constant(self, graph: ir.Graph, role: str, numbers: Sequence[int]) -> ir.Value:
        """Return an initializer of `graph` that holds `numbers`, named after the node and `role`."""
        return shared_initializer(graph, f"{self.node.name}.{role}", numbers)


class SameRows(Selection):
    """The same rows of each text: a Gather of one row or of a list of rows, or a Slice."""

    axes = (ROWS,)

    @classmethod
    def from_node(cls, node: ir.Node, source: ir.Value, result: ir.Shape) -> Self | None:
        if not _goes_along_rows(node):
            return None
        drops = len(result) < RANK
        return cls(node=node, source=source, size=1 if drops else result[ROWS], dropped=ROWS if drops else None)

    def select_from(self, value: ir.Value, axes: tuple[int, ...], graph: ir.Graph) -> list[ir.Node]:
        (axis,) = axes
        _, first, *rest = self.node.inputs
        if self.node.op_type == "Gather":
            row = None if self.dropped is None else contents(first)
            index = first if row is None else self.constant(graph, "rows", [int(row)])
            return [ir.node("Gather", [value, index], {"axis": axis})]
        end, _, *step = rest
        along = self.constant(graph, f"axis.{axis}", [axis])
        return [ir.node("Slice", [value, first, end, along, *step])]

    def can_select_from(self, value: ir.Value, axes: tuple[int, ...]) -> bool:
        return True


class RowsOfEachText(Selection):
    """Other rows of each text, equally many: a GatherND, or a GatherElements whose index is the same for whole rows."""

    @classmethod
    def from_node(cls, node: ir.Node, source: ir.Value, result: ir.Shape) -> Self | None:
        column = _column(node)
        if column is None or column.shape is None or rank(column) != RANK or column.shape[-1] != 1:
            return None
        shape = source.shape
        if shape is None or not (same_size(column.shape[BATCH], shape[BATCH]) and same_size(result[-1], shape[-1])):
            return None
        return cls(node=node, source=source, size=result[ROWS])

    def select_from(self, value: ir.Value, axes: tuple[int, ...], graph: ir.Graph) -> list[ir.Node]:
        return [ir.node("GatherND", [value, _column(self.node)], {"batch_dims": 1})]


class RowsOfTheBatch(Selection):
    """Rows of all texts in one list, as a boolean index makes it: a GatherND by pairs of text and row."""

    merges = True

    @classmethod
    def from_node(cls, node: ir.Node, source: ir.Value, result: ir.Shape) -> Self | None:
        pairs = node.inputs[1] if node.op_type == "GatherND" and not node.attributes.get_int("batch_dims", 0) else None
        if pairs is None or pairs.shape is None or len(pairs.shape) != 2 or pairs.shape[1] != 2:
            return None
        return cls(node=node, source=source, size=result[0], dropped=BATCH)

    def can_select_from(self, value: ir.Value, axes: tuple[int, ...]) -> bool:
        # Not between a Reshape and a Transpose of an attention, where fusions look for both.
        return axes == self.axes and rank(value) == RANK

    def select_from(self, value: ir.Value, axes: tuple[int, ...], graph: ir.Graph) -> list[ir.Node]:
        list_axis = self.constant(graph, "list", [BATCH])
        one_list = ir.node("Unsqueeze", [self.node.inputs[1], list_axis])
        listed = set_type(one_list.outputs[0], ir.DataType.INT64, [1, self.size, 2])
        return [one_list, ir.node("GatherND", [value, listed], {"batch_dims": 0})]


KINDS: Final[tuple[type[Selection], ...]] = (SameRows, RowsOfEachText, RowsOfTheBatch)


def selection_from_node(node: ir.Node) -> Selection | None:
    """Return the selection that `node` makes; None if it selects no rows, or there is only one."""
    source, result = (node.inputs or [None])[0], node.outputs[0].shape
    if node.domain or source is None or source.shape is None or result is None or source.producer() is None:
        return None
    if len(source.shape) != RANK or source.shape[ROWS] == 1:
        return None
    found = (kind.from_node(node, source, result) for kind in KINDS)
    return next((selection for selection in found if selection is not None), None)


def _goes_along_rows(node: ir.Node) -> bool:
    """Return whether `node` is a Gather of one row or a list of rows, or a Slice along the rows."""
    if node.op_type == "Gather":
        index = operand(node, 1)
        row = contents(index) if rank(index) == 0 else None
        one_or_list = (row is not None and row.size == 1) if rank(index) == 0 else rank(index) == 1
        return axis_of(node, default=0, rank=RANK) == ROWS and one_or_list
    axes = contents(node.inputs[3]) if node.op_type == "Slice" and len(node.inputs) > 3 else None
    return axes is not None and axes.tolist() in ALONG_ROWS


def _column(node: ir.Node) -> ir.Value | None:
    """Return the index [batch, rows, 1] by which `node` selects rows of each text, or None if it has none."""
    index = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type == "GatherND" and node.attributes.get_int("batch_dims", 0) == 1:
        return index
    expand = maker(index, "Expand") if node.op_type == "GatherElements" else None
    if expand is None or axis_of(node, default=0, rank=RANK) != ROWS:
        return None
    return expand.inputs[0]
