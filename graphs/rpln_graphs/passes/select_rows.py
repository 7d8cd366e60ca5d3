"""Gather(LN(x + FFN(...)), rows) -> LN(Gather(x, rows) + FFN(...)): what no head reads is not computed.

A head that reads the first token, or the last, picks its row behind the final LayerNorm. In the last layer everything
but keys and values treats each row by itself, so the row can be picked long before. Rules:

1. A selection changes places with the operator that made the rows, if that is in ROWWISE and nobody else reads its
   result. The operator then makes the selected rows alone, of the same rank as before, and each input that has these
   rows is selected from in turn, until something stands in the way: of the residual stream and of what LayerNorm makes
   of it for the last layer, of a causal mask, of the table of relative distances.
2. A selection that passes no MatMul that way saves nothing worth it: the graph stays as it is.
3. A selection of one row that drops the axis of rows becomes a Squeeze.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rpln_graphs.passes.base import FIRST_TOKEN, HIDDEN_STATES, LAST_TOKEN, ExplainingPass, Network, Refusal
from rpln_graphs.passes.initializers import initializer_from_array

HEADS: Final = frozenset({FIRST_TOKEN, LAST_TOKEN})
ROWS: Final = 1
"""Heads select from values [batch, rows, hidden]."""
RANK: Final = 3


class SelectRows(ExplainingPass):
    """Counts the selections that were moved: one, where a head makes one."""

    unless: ClassVar[Mapping[str, str]] = {HIDDEN_STATES: "the last hidden state is an output, of every token"}

    def formula(self, network: Network) -> int:
        """One for a head that reads some of the tokens."""
        return int(not network.features.isdisjoint(HEADS))

    def rewrite(self, model: ir.Model) -> int:
        refusals = []
        selections = list(filter(None, map(Selection.from_node, model.graph)))
        for selection in selections:
            way = _way_up(model.graph, selection)
            if any(node.op_type == "MatMul" for node in way.passed):
                _move(model.graph, selection, way)
            else:
                refusals.append(Refusal(node=selection.node.name or "", reason=way.obstacles[0]))  # rule 2
        self.record(model, refusals)
        return len(selections) - len(refusals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A node that picks `size` rows of `source`, [batch, rows, hidden], the same in each text of the batch."""

    node: ir.Node
    source: ir.Value
    size: int | ir.SymbolicDim

    @classmethod
    def from_node(cls, node: ir.Node) -> Self | None:
        """What `node` selects; None where it is no selection of rows."""
        source, result = (node.inputs or [None])[0], node.outputs[0]
        if source is None or source.producer() is None or _rank(source) != RANK or result.shape is None:
            return None
        if _shape(source)[ROWS] == 1 or node.domain or not _goes_along_rows(node):
            return None
        return cls(node=node, source=source, size=result.shape[ROWS] if _rank(result) == RANK else 1)

    @property
    def drops_axis(self) -> bool:
        """Whether the result is [batch, hidden]."""
        return _rank(self.node.outputs[0]) < RANK

    def again(self, value: ir.Value, axis: int, constant: Callable[[str, NDArray[Any]], ir.Value]) -> ir.Node:
        """A node that picks the same rows of `value` along `axis`, which it keeps."""
        _, first, *rest = self.node.inputs
        if self.node.op_type == "Gather":
            index = constant("rows", _constant(first).reshape(1)) if self.drops_axis else first
            return ir.node("Gather", [value, index], {"axis": axis})
        end, _, *step = rest
        return ir.node("Slice", [value, first, end, constant(f"axis.{axis}", np.array([axis])), *step])


def _goes_along_rows(node: ir.Node) -> bool:
    """Whether a node is a Gather of one row or a list of them, or a Slice of rows alone."""
    if node.op_type == "Gather":
        index = node.inputs[1]
        one = index is not None and _rank(index) == 0 and index.is_initializer()
        return _axis(node, default=0, rank=RANK) == ROWS and (one or (index is not None and _rank(index) == 1))
    if node.op_type == "Slice" and len(node.inputs) > 3:  # the axes are its fourth input
        axes = node.inputs[3]
        return axes is not None and axes.is_initializer() and _constant(axes).tolist() in ([ROWS], [ROWS - RANK])
    return False


# -- which way a selection goes --------------------------------------------------------------------------------------


class _Obstacle(Exception):  # noqa: N818 # no error, but where a selection comes to stand
    """Why a selection does not pass a node."""


class Operand(NamedTuple):
    """An input of a node that has the rows of the node's result, and the axis that they have there."""

    position: int
    axis: int


@dataclass(slots=True, kw_only=True)
class _Want:
    """That some rows of a value are enough: their axis, and the inputs that read it."""

    axis: int
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
    wanted = {selection.source: _Want(axis=ROWS, readers=[(selection.node, 0)])}
    narrowed: dict[ir.Value, _Want] = {}
    obstacles = []
    for node in reversed(graph):
        value = node.outputs[0]
        if value not in wanted:
            continue
        try:
            operands = _operands(node, wanted[value])
            _check_axes(node, operands, wanted)
        except _Obstacle as obstacle:
            obstacles.append(str(obstacle))
            continue
        narrowed[value] = wanted[value]
        for position, axis in operands:
            wanted.setdefault(_input(node, position), _Want(axis=axis)).readers.append((node, position))
    selected = {value: want for value, want in wanted.items() if value not in narrowed}
    return _Way(narrowed=narrowed, selected=selected, obstacles=obstacles)


def _operands(node: ir.Node, want: _Want) -> list[Operand]:
    """What of the inputs of `node` has the rows that are wanted of its result. Raises _Obstacle."""
    value = node.outputs[0]
    others = [use.node for use in value.uses() if (use.node, use.idx) not in want.readers]
    if value.is_graph_output():
        raise _Obstacle(f"{value.name} is an output of the graph")
    if others:
        raise _Obstacle(f"{value.name} is read by {others[0].name}, too")
    if any(further.uses() or further.is_graph_output() for further in node.outputs[1:]):
        raise _Obstacle(f"{node.name} has a second output")
    if node.domain or node.op_type not in ROWWISE:
        operator = f"{node.domain}.{node.op_type}".lstrip(".")
        raise _Obstacle(f"{operator} is not known to treat each row by itself ({node.name})")
    return ROWWISE[node.op_type](node, want.axis)


def _check_axes(node: ir.Node, operands: Sequence[Operand], wanted: Mapping[ir.Value, _Want]) -> None:
    for position, axis in operands:
        value = _input(node, position)
        if value in wanted and wanted[value].axis != axis:
            raise _Obstacle(f"{node.name} has the rows of {value.name} along two axes")


# -- operators that treat each row by itself -------------------------------------------------------------------------


def _elementwise(node: ir.Node, axis: int) -> list[Operand]:
    shape = _shape(node.outputs[0])
    operands = []
    for position, value in enumerate(node.inputs):
        if value is None:
            continue
        own = axis - len(shape) + len(_shape(value))
        if own < 0 or _shape(value)[own] == 1:
            continue  # broadcast
        if not _equal(_shape(value)[own], shape[axis]):
            raise _Obstacle(f"{node.name} reads {value.name}, of which it is not known whether it is broadcast")
        operands.append(Operand(position, own))
    return operands


def _over_other_axes(default: int, *, to_the_end: bool) -> Callable[[ir.Node, int], list[Operand]]:
    """Of an operator over the axis that its attribute names, or from that axis on: not over the rows."""

    def operands(node: ir.Node, axis: int) -> list[Operand]:
        over = _axis(node, default=default, rank=len(_shape(node.outputs[0])))
        if over == axis or (to_the_end and over < axis):
            raise _Obstacle(f"{node.name} goes over the axis of rows")
        return [Operand(0, axis)]

    return operands


def _matmul(node: ir.Node, axis: int) -> list[Operand]:
    left, result = _rank(node.inputs[0]), _rank(node.outputs[0])
    if left < 2 or axis != result - 2:  # a matrix
        raise _Obstacle(f"the rows of {node.name} are not those of its left side")
    return [Operand(0, left - 2)]


def _einsum(node: ir.Node, axis: int) -> list[Operand]:
    """Every operand that has the letter of the rows: `bhtk,tsk->bhts` has t in both."""
    left, arrow, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    if not arrow or "." in left or any(letters.count(result[axis]) > 1 for letters in left.split(",")):
        raise _Obstacle(f"{node.name} does not name each axis by a letter of its own")
    places = [(position, letters.find(result[axis])) for position, letters in enumerate(left.split(","))]
    return [Operand(position, place) for position, place in places if place >= 0]


def _transpose(node: ir.Node, axis: int) -> list[Operand]:
    return [Operand(0, tuple(node.attributes["perm"].as_ints())[axis])]


def _reshape(node: ir.Node, axis: int) -> list[Operand]:
    """Rows stay rows where all axes up to theirs are as before and their number is not written down."""
    before, after, target = _shape(node.inputs[0]), _shape(node.outputs[0]), node.inputs[1]
    if target is None or not target.is_initializer():
        raise _Obstacle(f"the shape that {node.name} makes is computed")
    kept = len(before) > axis and all(map(_equal, before[: axis + 1], after[: axis + 1]))
    if not kept or _constant(target)[axis] > 0 or node.attributes.get_int("allowzero", 0):
        raise _Obstacle(f"{node.name} does not keep the rows")
    return [Operand(0, axis)]


def _lookup(node: ir.Node, axis: int) -> list[Operand]:
    """A table's rows for an array of indices."""
    if _axis(node, default=0, rank=_rank(node.inputs[0])) != 0 or axis >= _rank(node.inputs[1]):
        raise _Obstacle(f"{node.name} is no lookup of rows")
    return [Operand(1, axis)]


ELEMENTWISE: Final = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Neg", "Sqrt", "Exp", "Erf", "Tanh", "Sigmoid", "Where", "Clip"),
    *("Gelu", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Mish", "Softplus", "Softsign", "HardSigmoid"),
    *("HardSwish", "ThresholdedRelu", "Abs", "Not", "And", "Or", "Equal", "Less", "LessOrEqual", "Greater"),
    *("GreaterOrEqual", "Cast", "Identity", "Swish"),
)
ROWWISE: Final[Mapping[str, Callable[[ir.Node, int], list[Operand]]]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    "LayerNormalization": _over_other_axes(-1, to_the_end=True),
    "Softmax": _over_other_axes(-1, to_the_end=False),
    "MatMul": _matmul,
    "Einsum": _einsum,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Gather": _lookup,
}
"""Operators that make some rows of their result from the same rows of their operands, given the axis of rows."""


# -- the move --------------------------------------------------------------------------------------------------------


def _move(graph: ir.Graph, selection: Selection, way: _Way) -> None:
    """Select where `way` ends, and narrow what lies between there and the head."""

    def constant(role: str, array: NDArray[Any]) -> ir.Value:
        name = f"{selection.node.name}.{role}"
        if name not in graph.initializers:
            graph.register_initializer(initializer_from_array(name, array.astype(np.int64)))
        return graph.initializers[name]

    for value, want in way.selected.items():
        node = selection.again(value, want.axis, constant)
        (rows,) = node.outputs
        node.name = rows.name = _new_name(graph, f"{value.name}.rows")
        rows.type, rows.shape = value.type, _narrowed(_shape(value), want.axis, selection.size)
        graph.insert_before(selection.node, node)
        for reader, position in want.readers:
            reader.replace_input_with(position, rows)
    for value, want in way.narrowed.items():
        value.shape = _narrowed(_shape(value), want.axis, selection.size)
    _close(graph, selection, constant)
    graph.sort()


def _close(graph: ir.Graph, selection: Selection, constant: Callable[[str, NDArray[Any]], ir.Value]) -> None:
    """Where the head selected, there is nothing left to select (rule 3)."""
    (result,) = selection.node.outputs
    if selection.drops_axis:
        last = ir.node("Squeeze", [selection.source, constant("axes", np.array([ROWS]))], name=selection.node.name)
        last.outputs[0].type, last.outputs[0].shape = result.type, result.shape
        graph.insert_after(selection.node, last)
        remaining = last.outputs[0]
    else:
        remaining = selection.source
    if selection.drops_axis or result.is_graph_output():
        remaining.name = result.name
    ir.convenience.replace_all_uses_with(result, remaining, replace_graph_outputs=True)
    graph.remove(selection.node, safe=True)


def _new_name(graph: ir.Graph, name: str) -> str:
    taken = {value.name for node in graph for value in node.outputs}
    while name in taken:
        name += "_"
    return name


def _narrowed(shape: ir.Shape, axis: int, size: int | ir.SymbolicDim) -> ir.Shape:
    return ir.Shape([*shape[:axis], size, *shape[axis + 1 :]])


# -- shapes ----------------------------------------------------------------------------------------------------------


def _shape(value: ir.Value | None) -> ir.Shape:
    if value is None or value.shape is None:
        raise _Obstacle(f"the shape of {value.name if value is not None else 'an input'} is not known")
    return value.shape


def _rank(value: ir.Value | None) -> int:
    return -1 if value is None or value.shape is None else value.shape.rank()


def _equal(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    """Whether two sizes are known to be the same; one without a name equals no other."""
    return one == other and (isinstance(one, int) or one.value is not None)


def _axis(node: ir.Node, *, default: int, rank: int) -> int:
    """The node's axis, counted from the front."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else default
    return axis + rank if axis < 0 else axis


def _constant(value: ir.Value | None) -> NDArray[Any]:
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def _input(node: ir.Node, position: int) -> ir.Value:
    value = node.inputs[position]
    assert value is not None
    return value
