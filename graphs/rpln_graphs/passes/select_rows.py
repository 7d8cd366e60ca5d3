"""Gather(LN(x + FFN(...)), rows) -> LN(Gather(x, rows) + FFN(...)): rows that no head reads are not computed.

A head that reads the first token, the last, or the masked ones selects their rows behind the final LayerNorm. In the
last layer everything but keys and values treats each row by itself, so the rows can be selected long before. Rules:

1. A selection changes places with the operator that made the rows, if that is in ROWWISE and nobody else reads its
   result. The operator then makes only the selected rows, with as many axes as before. From each operand that has these
   rows they are selected in turn, until something stands in the way. The selections end up behind the residual stream
   and its LayerNorm in the last layer, a causal mask, and relative distances.
2. Rows that differ from text to text pass operators that have texts and rows in one order everywhere, and stop at
   operands that have the rows of all texts at once. Rows in one list over the batch also stop at operators that treat
   each text by itself: attention.
3. A selection that passes no MatMul saves too little: the graph stays as it is.
4. Where the head selected, an axis may be left to drop: a Squeeze.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple

import onnx_ir as ir
from onnx_ir.passes import common

from rpln_graphs.rewriting.base import ExplainingPass, refused
from rpln_graphs.rewriting.nodes import take_place
from rpln_graphs.rewriting.row_selections import Selection, selection_from_node
from rpln_graphs.rewriting.rowwise import Obstacle, operands_by_row, shape_of
from rpln_graphs.rewriting.traits import FIRST_TOKEN, HIDDEN_STATES, LAST_TOKEN, MASKED_TOKENS, GraphTraits
from rpln_graphs.rewriting.values import operand

HEADS: Final = frozenset({FIRST_TOKEN, LAST_TOKEN, MASKED_TOKENS})

NO_PLACE: Final = "{node} reads {value}, of which these rows cannot be selected"
GIVEN_OUT: Final = "{value} is an output of the graph"
READ_WHOLE: Final = "{value} is also read by {node}"
SECOND_OUTPUT: Final = "{node} has a second output"
ROWS_OF_ALL_TEXTS: Final = "{node} reads {value}, which has these rows for all texts at once"
TEXTS_APART: Final = "{node} treats each text of a batch by itself"
TWO_AXES: Final = "{node} has the rows of {value} along two axes"


class SelectRows(ExplainingPass):
    """A pass that selects the rows of a head earlier. It counts the selections that it moved: one for such a head."""

    unless: ClassVar[Mapping[str, str]] = {HIDDEN_STATES: "the last hidden state of every token is an output"}

    def formula(self, traits: GraphTraits) -> int:
        """Return 1 for a head that reads only some of the tokens, else 0."""
        return int(not traits.features.isdisjoint(HEADS))

    def rewrite(self, model: ir.Model) -> int:
        refusals = []
        selections = list(filter(None, map(selection_from_node, model.graph)))
        for selection in selections:
            way = _way_up(model.graph, selection)
            if any(node.op_type == "MatMul" for node in way.passed):
                _move(model.graph, selection, way)
            else:
                refusals.append(refused(selection.node, way.obstacles[0]))  # rule 3
        if len(refusals) < len(selections):
            common.RemoveUnusedNodesPass()(model)
        self.record(model, refusals)
        return len(selections) - len(refusals)


# -- which way a selection goes --------------------------------------------------------------------------------------


class Operand(NamedTuple):
    """The position of a node's input, and the axes of its texts and rows."""

    position: int
    axes: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class _Want:
    """What is needed of a value: the axes along which the needed rows lie, and the inputs that read the value."""

    axes: tuple[int, ...]
    readers: list[tuple[ir.Node, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """The way of a selection towards the inputs of a graph.

    Attributes:
        narrowed: the values that lose rows.
        selected: the values that rows are selected from, where the way ends.
        obstacles: the reasons why the way ends, nearest to the head first.
    """

    narrowed: Mapping[ir.Value, _Want]
    selected: Mapping[ir.Value, _Want]
    obstacles: Sequence[str]

    @property
    def passed(self) -> list[ir.Node]:
        """The nodes that the selection changes places with."""
        return [node for value in self.narrowed if (node := value.producer()) is not None]


def _way_up(graph: ir.Graph, selection: Selection) -> _Way:
    """Return how far `selection` can be moved up so that its rows can be selected of all values where the way ends."""
    closed: dict[ir.Node, str] = {}
    while True:
        way = _way_around(closed, graph, selection)
        misplaced = {
            value: want for value, want in way.selected.items() if not selection.can_select_from(value, want.axes)
        }
        if not misplaced:
            return way
        for value, want in misplaced.items():
            for reader, _ in want.readers:
                closed[reader] = NO_PLACE.format(node=reader.name, value=value.name)


def _way_around(closed: Mapping[ir.Node, str], graph: ir.Graph, selection: Selection) -> _Way:
    """Return how far `selection` can be moved up without passing the nodes in `closed`, which maps them to reasons."""
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
            wanted.setdefault(operand(node, position), _Want(axes=axes)).readers.append((node, position))
    selected = {value: want for value, want in wanted.items() if value not in narrowed}
    return _Way(narrowed=narrowed, selected=selected, obstacles=obstacles)


def _check_readers(node: ir.Node, want: _Want) -> None:
    """Raise Obstacle if anything needs all rows of the result of `node`."""
    value = node.outputs[0]
    others = [use.node for use in value.uses() if (use.node, use.idx) not in want.readers]
    if value.is_graph_output():
        raise Obstacle(GIVEN_OUT.format(value=value.name))
    if others:
        raise Obstacle(READ_WHOLE.format(value=value.name, node=others[0].name))
    if any(further.uses() or further.is_graph_output() for further in node.outputs[1:]):
        raise Obstacle(SECOND_OUTPUT.format(node=node.name))


def _operands(node: ir.Node, axes: tuple[int, ...], selection: Selection) -> list[Operand]:
    """Return the inputs of `node` that lose rows when its result does (rule 2). Raises Obstacle."""
    *texts, rows = [operands_by_row(node, axis) for axis in axes]
    for by_text in texts:
        for shared in rows.keys() - by_text.keys():
            raise Obstacle(ROWS_OF_ALL_TEXTS.format(node=node.name, value=operand(node, shared).name))
        if selection.merges and by_text.keys() - rows.keys():
            raise Obstacle(TEXTS_APART.format(node=node.name))
    return [Operand(position, (*(by_text[position] for by_text in texts), axis)) for position, axis in rows.items()]


def _check_axes(node: ir.Node, operands: Iterable[Operand], wanted: Mapping[ir.Value, _Want]) -> None:
    """Raise Obstacle if the rows of an operand were already found along other axes of it."""
    for position, axes in operands:
        value = operand(node, position)
        if value in wanted and wanted[value].axes != axes:
            raise Obstacle(TWO_AXES.format(node=node.name, value=value.name))


# -- the move --------------------------------------------------------------------------------------------------------


def _move(graph: ir.Graph, selection: Selection, way: _Way) -> None:
    """Select rows where `way` ends, and narrow the shapes of the values between there and the head."""
    for value, want in way.selected.items():
        nodes = selection.select_from(value, want.axes, graph)
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
    """Remove the node that selected (rule 4)."""
    (result,), source = selection.node.outputs, selection.source
    if selection.dropped is not None:
        axes = selection.constant(graph, "axes", [selection.dropped])
        squeeze = ir.node("Squeeze", [source, axes], name=selection.node.name)
        graph.insert_after(selection.node, squeeze)
        take_place(squeeze.outputs[0], result)
    elif result.is_graph_output():
        take_place(source, result)
    else:
        ir.convenience.replace_all_uses_with(result, source)
    graph.remove(selection.node, safe=True)


def _new_name(graph: ir.Graph, name: str) -> str:
    taken = {value.name for node in graph for value in node.outputs}
    while name in taken:
        name += "_"
    return name
