"""Gather(LN(x + FFN(...)), rows) -> LN(Gather(x, rows) + FFN(...)): what no head reads is not computed.

A head that reads the first token, the last, or the masked ones picks their rows behind the final LayerNorm. In the last
layer everything but keys and values treats each row by itself, so the rows can be picked long before. Rules:

1. A selection changes places with the operator that made the rows, if that is in ROWWISE and nobody else reads its
   result. The operator then makes the selected rows alone, of the same rank as before, and each operand that has these
   rows is selected from in turn, until something stands in the way: of the residual stream and of what LayerNorm makes
   of it for the last layer, of a causal mask, of relative distances.
2. Rows that differ from text to text pass what has rows and texts in the same order everywhere, and stop at what has
   the rows of all texts at once. Rows in one list over the batch stop besides at what tells texts apart: attention.
3. A selection that passes no MatMul that way saves nothing worth it: the graph stays as it is.
4. Where the head selected, only an axis is left to drop: a Squeeze.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from rpln_graphs.rewriting.base import (
    FIRST_TOKEN,
    HIDDEN_STATES,
    LAST_TOKEN,
    MASKED_TOKENS,
    ExplainingPass,
    GraphTraits,
    Refusal,
)
from rpln_graphs.rewriting.row_selections import Selection, selection_from_node
from rpln_graphs.rewriting.rowwise import Obstacle, operands_by_row, shape_of

HEADS: Final = frozenset({FIRST_TOKEN, LAST_TOKEN, MASKED_TOKENS})


class SelectRows(ExplainingPass):
    """Counts the selections that were moved: one, where a head makes one."""

    unless: ClassVar[Mapping[str, str]] = {HIDDEN_STATES: "the last hidden state is an output, of every token"}

    def formula(self, traits: GraphTraits) -> int:
        """One for a head that reads some of the tokens."""
        return int(not traits.features.isdisjoint(HEADS))

    def rewrite(self, model: ir.Model) -> int:
        refusals = []
        selections = list(filter(None, map(selection_from_node, model.graph)))
        for selection in selections:
            way = _way_up(model.graph, selection)
            if any(node.op_type == "MatMul" for node in way.passed):
                _move(model.graph, selection, way)
            else:
                refusals.append(Refusal(node=selection.node.name or "", reason=way.obstacles[0]))  # rule 3
        if len(refusals) < len(selections):
            common.RemoveUnusedNodesPass()(model)
        self.record(model, refusals)
        return len(selections) - len(refusals)


# -- which way a selection goes --------------------------------------------------------------------------------------


class Operand(NamedTuple):
    """An input of a node, and the axes of texts and rows in it that a selection goes over."""

    position: int
    axes: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class _Want:
    """That some rows of a value are enough: the axes that they lie along, and the inputs that read it."""

    axes: tuple[int, ...]
    readers: list[tuple[ir.Node, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """The values that lose rows, those that rows are selected from, and what stands in the way, nearest first."""

    narrowed: Mapping[ir.Value, _Want]
    selected: Mapping[ir.Value, _Want]
    obstacles: Sequence[str]

    @property
    def passed(self) -> list[ir.Node]:
        """The nodes that the selection changes places with."""
        return [node for value in self.narrowed if (node := value.producer()) is not None]


def _way_up(graph: ir.Graph, selection: Selection) -> _Way:
    """As far as the selection goes, and stands there."""
    closed: dict[ir.Node, str] = {}
    while True:
        way = _way_around(closed, graph, selection)
        misplaced = {value: want for value, want in way.selected.items() if not selection.stands(value, want.axes)}
        if not misplaced:
            return way
        for value, want in misplaced.items():
            for reader, _ in want.readers:
                closed[reader] = f"{reader.name} reads {value.name}, from which these rows cannot be picked"


def _way_around(closed: Mapping[ir.Node, str], graph: ir.Graph, selection: Selection) -> _Way:
    """As far as the selection goes without passing what is `closed`."""
    wanted = {selection.source: _Want(axes=selection.axes, readers=[(selection.node, 0)])}
    narrowed: dict[ir.Value, _Want] = {}
    obstacles = []
    for node in reversed(graph):
        value = node.outputs[0]
        if value not in wanted:
            continue
        try:
            if node in closed:
                raise Obstacle(closed[node])
            _check_readers(node, wanted[value])
            operands = _operands(node, wanted[value].axes, selection)
            _check_axes(node, operands, wanted)
        except Obstacle as obstacle:
            obstacles.append(str(obstacle))
            continue
        narrowed[value] = wanted[value]
        for position, axes in operands:
            wanted.setdefault(_input(node, position), _Want(axes=axes)).readers.append((node, position))
    selected = {value: want for value, want in wanted.items() if value not in narrowed}
    return _Way(narrowed=narrowed, selected=selected, obstacles=obstacles)


def _check_readers(node: ir.Node, want: _Want) -> None:
    """Raise Obstacle where somebody needs all rows of what `node` makes."""
    value = node.outputs[0]
    others = [use.node for use in value.uses() if (use.node, use.idx) not in want.readers]
    if value.is_graph_output():
        raise Obstacle(f"{value.name} is an output of the graph")
    if others:
        raise Obstacle(f"{value.name} is read by {others[0].name}, too")
    if any(further.uses() or further.is_graph_output() for further in node.outputs[1:]):
        raise Obstacle(f"{node.name} has a second output")


def _operands(node: ir.Node, axes: tuple[int, ...], selection: Selection) -> list[Operand]:
    """The inputs of `node` that lose rows when its result does. Raises Obstacle."""
    *texts, rows = [operands_by_row(node, axis) for axis in axes]
    for by_text in texts:
        for shared in rows.keys() - by_text.keys():
            raise Obstacle(f"{node.name} reads {_input(node, shared).name}, which has these rows for all texts at once")
        if selection.merges and by_text.keys() - rows.keys():
            raise Obstacle(f"{node.name} tells the texts of a batch apart")
    return [Operand(position, (*(by_text[position] for by_text in texts), axis)) for position, axis in rows.items()]


def _check_axes(node: ir.Node, operands: Iterable[Operand], wanted: Mapping[ir.Value, _Want]) -> None:
    for position, axes in operands:
        value = _input(node, position)
        if value in wanted and wanted[value].axes != axes:
            raise Obstacle(f"{node.name} has the rows of {value.name} along two axes")


# -- the move --------------------------------------------------------------------------------------------------------


def _move(graph: ir.Graph, selection: Selection, way: _Way) -> None:
    """Select where `way` ends, and narrow what lies between there and the head."""
    for value, want in way.selected.items():
        nodes = selection.again(value, want.axes, graph)
        (rows,) = nodes[-1].outputs
        rows.name = _new_name(graph, f"{value.name}.rows")
        rows.type, rows.shape = value.type, selection.narrowed(shape_of(value), want.axes)
        for node in nodes:
            node.outputs[0].name = node.outputs[0].name or f"{rows.name}.{node.op_type}"
            node.name = node.outputs[0].name
        graph.insert_before(selection.node, nodes)
        for reader, position in want.readers:
            reader.replace_input_with(position, rows)
    for value, want in way.narrowed.items():
        value.shape = selection.narrowed(shape_of(value), want.axes)
    _close(graph, selection)
    graph.sort()


def _close(graph: ir.Graph, selection: Selection) -> None:
    """Leave out the node that selected (rule 4)."""
    (result,) = selection.node.outputs
    remaining = selection.source
    if selection.dropped is not None:
        axes = selection.constant(graph, "axes", np.array([selection.dropped]))
        squeeze = ir.node("Squeeze", [remaining, axes], name=selection.node.name)
        graph.insert_after(selection.node, squeeze)
        (remaining,) = squeeze.outputs
        remaining.type, remaining.shape = result.type, result.shape
    if selection.dropped is not None or result.is_graph_output():
        remaining.name = result.name
    ir.convenience.replace_all_uses_with(result, remaining, replace_graph_outputs=True)
    graph.remove(selection.node, safe=True)


def _new_name(graph: ir.Graph, name: str) -> str:
    taken = {value.name for node in graph for value in node.outputs}
    while name in taken:
        name += "_"
    return name


def _input(node: ir.Node, position: int) -> ir.Value:
    value = node.inputs[position]
    assert value is not None
    return value
