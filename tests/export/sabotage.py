"""Mistakes that can happen between a trace and a bundle, made on purpose. Each function changes a graph in place.

They are mistakes that exporters make: a weight that is scaled wrongly, a mask that is taken for right padding, padded
tokens that are dropped although the head reads the first one, NaN for a row that is all padding, and a cache with a
wrong order, layer or time.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

Sabotage = Callable[[ir.Model], None]


def nothing(model: ir.Model) -> None:
    """Leave the graph as it is."""


def scaled(name: str, factor: float = 1.5) -> Sabotage:
    """Return a sabotage that multiplies the weight `name` by `factor`."""
    return lambda model: _replace(model, name, lambda array: array * array.dtype.type(factor))


def row_altered(name: str, row: int) -> Sabotage:
    """Return a sabotage that changes one row of the table `name`."""

    def altered(array: np.ndarray) -> np.ndarray:
        array[row] *= -1
        return array

    return lambda model: _replace(model, name, altered)


def one_nan(name: str) -> Sabotage:
    """Return a sabotage that sets one number of the weight `name` to NaN."""

    def altered(array: np.ndarray) -> np.ndarray:
        array.flat[0] = np.nan
        return array

    return lambda model: _replace(model, name, altered)


def right_padding_assumed(model: ir.Model) -> None:
    """Take as many leading tokens as the mask has real ones, which is right only for padding on the right."""
    mask = _input(model, "attention_mask")
    readers = list(mask.uses())
    real = _node("ReduceSum", [mask, _constant([-1])], {"keepdims": 1})
    ones = _node("Add", [_node("Mul", [mask, _constant(0)]), _constant(1)])
    position = _node("CumSum", [ones, _constant(1)])
    prefix = _node("Cast", [_node("LessOrEqual", [position, real])], {"to": ir.DataType.INT64})
    for node, index in readers:
        node.replace_input_with(index, prefix)
    _insert(model, prefix)


def padded_tokens_zeroed(model: ir.Model) -> None:
    """Set the final hidden states of padded tokens to zero, as if they were not computed."""
    (norm,) = [node for node in model.graph if node.name == "LayerNorm.LayerNormalization"]
    hidden = norm.outputs[0]
    readers = list(hidden.uses())
    assert hidden.shape is not None
    tokens = _input(model, "attention_mask")
    if hidden.shape[1] == 1:  # the row that the head reads
        tokens = _node("Gather", [tokens, _constant([0])], {"axis": 1})
    mask = _node("Unsqueeze", [tokens, _constant([-1])])
    zeroed = _node("Mul", [hidden, _node("Cast", [mask], {"to": ir.DataType.FLOAT})])
    for node, index in readers:
        node.replace_input_with(index, zeroed)
    _insert(model, zeroed, after=norm)


def nan_without_a_real_token(model: ir.Model) -> None:
    """Mask keys with -inf instead of the lowest finite number: the softmax of a row of padding is then 0/0."""
    for softmax in [node for node in model.graph if node.op_type == "Softmax"]:
        scores = softmax.inputs[0]
        assert scores is not None
        producer = scores.producer()
        hidden = _node("Less", [scores, _constant(-1e30)])
        infinite = _node("Where", [hidden, _constant(-np.inf), scores])
        softmax.replace_input_with(0, infinite)
        _insert(model, infinite, after=producer)


def rows_disturbed_by_an_empty_one(model: ir.Model) -> None:
    """Let a row that is all padding add 1 to the first output of all rows."""
    output = model.graph.outputs[0]
    producer = output.producer()
    real = _node("ReduceMax", [_input(model, "attention_mask"), _constant([-1])], {"keepdims": 0})
    empty = _node("Sub", [_constant(1), _node("ReduceMin", [real], {"keepdims": 0})])
    disturbed = _node("Add", [output, _node("Cast", [empty], {"to": ir.DataType.FLOAT})])
    disturbed.type, disturbed.shape = output.type, output.shape
    disturbed.name, output.name = output.name, f"{output.name}.undisturbed"
    model.graph.outputs[0] = disturbed
    _insert(model, disturbed, after=producer)


def of_graph_with(output: str, sabotage: Sabotage) -> Sabotage:
    """Return a sabotage that is done only to graphs that have the output `output`."""
    return lambda model: sabotage(model) if output in {value.name for value in model.graph.outputs} else None


def new_before_past(model: ir.Model) -> None:
    """Put new keys and values before earlier ones, which is right only for single tokens without padding."""
    for node in _appends(model):
        past, new = node.inputs
        node.replace_input_with(0, new)
        node.replace_input_with(1, past)


def past_forgotten(model: ir.Model) -> None:
    """Let the last layer read zeros instead of the past."""
    *_, node = _appends(model)
    zeros = _node("Mul", [_of(node.inputs[0]), _constant(0.0)])
    node.replace_input_with(0, zeros)
    _insert(model, zeros)


def layers_exchanged(model: ir.Model) -> None:
    """Exchange the caches that two layers give out."""
    outputs = {value.name: value for value in model.graph.outputs}
    first, second = outputs["present.0.value"], outputs["present.1.value"]
    order = list(model.graph.outputs)
    places = order.index(first), order.index(second)
    order[places[0]], order[places[1]] = second, first
    first.name, second.name = second.name, first.name
    model.graph.outputs.clear()
    model.graph.outputs.extend(order)


def own_token_hidden_in_steps(model: ir.Model) -> None:
    """With a past, shorten the causal mask by one token, so that a new token does not see itself."""
    (length,) = [node for node in model.graph if node.name == "encoder.Sub"]
    past = length.outputs[0]
    readers = list(past.uses())
    short = _node("Sub", [past, _node("Min", [past, _constant(1)])])
    for node, index in readers:
        node.replace_input_with(index, short)
    _insert(model, short, after=length)


def positions_late_in_steps(model: ir.Model) -> None:
    """With a past, lower positions by one, as if the past's length were counted without one token."""
    positions = _input(model, "position_ids")
    (length,) = [node for node in model.graph if node.name == "encoder.Sub"]
    readers = [(node, index) for node, index in positions.uses() if node.op_type == "Gather"]
    late = _node("Sub", [positions, _node("Min", [length.outputs[0], _constant(1)])])
    for node, index in readers:
        node.replace_input_with(index, late)
    _insert(model, late, after=length)
    model.graph.sort()


def heads_never_silenced(model: ir.Model) -> None:
    """Accept a head mask and ignore it."""
    given = _input(model, "head_mask")
    readers = list(given.uses())
    ones = _node("Max", [given, _constant(1.0)])
    for node, index in readers:
        node.replace_input_with(index, ones)
    _insert(model, ones)


def _appends(model: ir.Model) -> list[ir.Node]:
    """Return the nodes that append new keys and values to earlier ones."""
    return [
        node
        for node in model.graph
        if node.op_type == "Concat" and (_of(node.inputs[0]).name or "").startswith("past_key_values.")
    ]


def _of(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def _replace(model: ir.Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    value = model.graph.initializers[name]
    assert value.const_value is not None
    value.const_value = ir.tensor(change(value.const_value.numpy().copy()), name=name)


def _input(model: ir.Model, name: str) -> ir.Value:
    (value,) = [value for value in model.graph.inputs if value.name == name]
    return value


def _node(op_type: str, inputs: list[ir.Value], attributes: dict[str, int] | None = None) -> ir.Value:
    return ir.node(op_type, inputs, attributes).outputs[0]


def _constant(value: float | list[int]) -> ir.Value:
    array = np.array(value, dtype=np.float32 if isinstance(value, float) else np.int64)
    return ir.node("Constant", [], {"value": ir.AttrTensor("value", ir.tensor(array))}).outputs[0]


def _insert(model: ir.Model, value: ir.Value | None, *, after: ir.Node | None = None) -> None:
    """Insert the new nodes that compute `value` after the node they read, or at the start of the graph."""
    new: list[ir.Node] = []

    def collect(value: ir.Value | None) -> None:
        node = value.producer() if value is not None else None
        if node is None or node.graph is not None or node in new:
            return
        for source in node.inputs:
            collect(source)
        new.append(node)

    collect(value)
    if after is None:
        model.graph.insert_before(model.graph[0], new)
    else:
        model.graph.insert_after(after, new)
