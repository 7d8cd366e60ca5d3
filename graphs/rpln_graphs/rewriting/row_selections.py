"""Selections of rows: what a node picks of values [batch, rows, hidden], and how to pick the same of another value."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rpln_graphs.rewriting.initializers import initializer_from_array
from rpln_graphs.rewriting.rowwise import Size, axis_of, contents, same_size

BATCH, ROWS, RANK = 0, 1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection(ABC):
    """A node that picks `size` rows of `source`.

    `axes` are those that it goes over, of `source`: rows alone, or rows of each text of a batch. What it picks keeps
    the rank; `merges` says that rows of all texts come in one list, [1, size, hidden]. `dropped` is the axis, then of
    size 1, that the node itself has dropped; None where it keeps them all.
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
        """What `node` selects of `source`, [batch, rows, hidden]; None where it is no selection of this kind."""

    @abstractmethod
    def again(self, value: ir.Value, axes: tuple[int, ...], graph: ir.Graph) -> list[ir.Node]:
        """Nodes of which the last picks the same rows of `value`, where they lie along `axes`."""

    def stands(self, value: ir.Value, axes: tuple[int, ...]) -> bool:
        """Whether there is a node that picks the rows of `value`."""
        return axes == self.axes

    def narrowed(self, shape: ir.Shape, axes: tuple[int, ...]) -> ir.Shape:
        """`shape` with the selected rows alone."""
        sizes = list(shape)
        sizes[axes[-1]] = self.size
        if self.merges:
            sizes[axes[0]] = 1
        return ir.Shape(sizes)

    def constant(self, graph: ir.Graph, role: str, numbers: NDArray[Any]) -> ir.Value:
        """An initializer of `graph` for the selection."""
        name = f"{self.node.name}.{role}"
        if name not in graph.initializers:
            graph.register_initializer(initializer_from_array(name, numbers.astype(np.int64)))
        return graph.initializers[name]


class SameRows(Selection):
    """The same rows of each text: a Gather of one row or a list of them, or a Slice."""

    axes = (ROWS,)

    @classmethod
    def from_node(cls, node: ir.Node, source: ir.Value, result: ir.Shape) -> Self | None:
        if not _goes_along_rows(node):
            return None
        drops = len(result) < RANK
        return cls(node=node, source=source, size=1 if drops else result[ROWS], dropped=ROWS if drops else None)

    def again(self, value: ir.Value, axes: tuple[int, ...], graph: ir.Graph) -> list[ir.Node]:
        (axis,) = axes
        _, first, *rest = self.node.inputs
        if self.node.op_type == "Gather":
            index = first if self.dropped is None else self.constant(graph, "rows", contents(first).reshape(1))
            return [ir.node("Gather", [value, index], {"axis": axis})]
        end, _, *step = rest
        along = self.constant(graph, f"axis.{axis}", np.array([axis]))
        return [ir.node("Slice", [value, first, end, along, *step])]

    def stands(self, value: ir.Value, axes: tuple[int, ...]) -> bool:
        return True


class RowsOfEachText(Selection):
    """Rows of its own for each text, as many for all: GatherND, or a GatherElements of an index for whole rows."""

    @classmethod
    def from_node(cls, node: ir.Node, source: ir.Value, result: ir.Shape) -> Self | None:
        column = _column(node)
        if column is None or column.shape is None or len(column.shape) != RANK or column.shape[-1] != 1:
            return None
        shape = source.shape
        if shape is None or not (same_size(column.shape[BATCH], shape[BATCH]) and same_size(result[-1], shape[-1])):
            return None
        return cls(node=node, source=source, size=result[ROWS])

    def again(self, value: ir.Value, axes: tuple[int, ...], graph: ir.Graph) -> list[ir.Node]:
        return [ir.node("GatherND", [value, _column(self.node)], {"batch_dims": 1})]


class RowsOfTheBatch(Selection):
    """Rows of all texts in one list, as a boolean index makes it: GatherND by pairs of text and row."""

    merges = True

    @classmethod
    def from_node(cls, node: ir.Node, source: ir.Value, result: ir.Shape) -> Self | None:
        pairs = node.inputs[1] if node.op_type == "GatherND" and not node.attributes.get_int("batch_dims", 0) else None
        if pairs is None or pairs.shape is None or len(pairs.shape) != 2 or pairs.shape[1] != 2:
            return None
        return cls(node=node, source=source, size=result[0], dropped=BATCH)

    def stands(self, value: ir.Value, axes: tuple[int, ...]) -> bool:
        # Not between a Reshape and a Transpose of attention, where whoever fuses that looks for them.
        return axes == self.axes and value.shape is not None and len(value.shape) == RANK

    def again(self, value: ir.Value, axes: tuple[int, ...], graph: ir.Graph) -> list[ir.Node]:
        list_axis = self.constant(graph, "list", np.array([BATCH]))
        one_list = ir.node("Unsqueeze", [self.node.inputs[1], list_axis])
        (listed,) = one_list.outputs
        listed.type, listed.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1, self.size, 2])
        return [one_list, ir.node("GatherND", [value, listed], {"batch_dims": 0})]


KINDS: Final[tuple[type[Selection], ...]] = (SameRows, RowsOfEachText, RowsOfTheBatch)


def selection_from_node(node: ir.Node) -> Selection | None:
    """What `node` selects; None where it is no selection of rows of [batch, rows, hidden], or there is but one row."""
    source, result = (node.inputs or [None])[0], node.outputs[0].shape
    if node.domain or source is None or source.shape is None or result is None or source.producer() is None:
        return None
    if len(source.shape) != RANK or source.shape[ROWS] == 1:
        return None
    found = (kind.from_node(node, source, result) for kind in KINDS)
    return next((selection for selection in found if selection is not None), None)


def _goes_along_rows(node: ir.Node) -> bool:
    if node.op_type == "Gather" and (index := node.inputs[1]) is not None and index.shape is not None:
        one_or_list = contents(index).size == 1 if len(index.shape) == 0 else len(index.shape) == 1
        return axis_of(node, default=0, rank=RANK) == ROWS and one_or_list
    # The axes of a Slice are its fourth input.
    return node.op_type == "Slice" and len(node.inputs) > 3 and contents(node.inputs[3]).tolist() in ([1], [-2])


def _column(node: ir.Node) -> ir.Value | None:
    """The index of `node`, [batch, rows, 1], if it picks rows of each text by one."""
    index = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type == "GatherND" and node.attributes.get_int("batch_dims", 0) == 1:
        return index
    expand = index.producer() if index is not None else None
    if node.op_type == "GatherElements" and expand is not None and expand.op_type == "Expand":
        return expand.inputs[0] if axis_of(node, default=0, rank=RANK) == ROWS else None
    return None
