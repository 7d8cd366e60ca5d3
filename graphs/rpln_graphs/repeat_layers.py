"""Trace of a network's first three layers -> trace of all: the third layer's nodes, once more for every layer behind.

Rules, in which layers count from 0:
1. The nodes of layers 1 and 2 are the same, one by one: in operator, attributes, module and types.
2. Where a node of layer 1 reads a value, its counterpart in layer 2 reads the value that follows it. What a node
   computes is followed by what its counterpart in the next layer computes, and a weight or a graph input by that of the
   next layer. A value that belongs to no layer is followed by itself.
3. Layer 3 is layer 2 with each value replaced by the one that follows it, and so on, up to the last layer.
4. Where the rest of the graph reads a value of layer 2, it reads that of the last layer.
5. Graph inputs and outputs that are numbered by layer go on with the layers.
A trace that breaks a rule is refused; the error names a node.
"""

import copy
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, pairwise

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor

from rpln_graphs.calls import GraphCall
from rpln_graphs.errors import GraphError
from rpln_graphs.passes.name_values import SCOPES_KEY, module_from_node
from rpln_graphs.short_networks import LayerStack, stacks_from_call
from rpln_graphs.trace_methods import LAYERS
from rpln_runtime.tasks import Tensor

Following = dict[ir.Value | None, ir.Value]
"""Values of the layers, each with the value that follows it: the one in its place in the next layer."""


def repeat_layers(graph: ir.Graph, call: GraphCall) -> None:
    """Turn `graph`, the trace of `short_call(call)`, into what the trace of `call` would be.

    Only the names of values may differ. Weights are shared with the network of `call`, not copied. Raises GraphError if
    the traced layers do not repeat one another.
    """
    following: Following = {}
    _add_inputs(graph, call, following)
    for stack in stacks_from_call(call):
        _add_weights(graph, stack, following)
        _add_nodes(graph, stack, following)
    _add_outputs(graph, call, following)


# -- nodes -----------------------------------------------------------------------------------------------------------


def _add_nodes(graph: ir.Graph, stack: LayerStack, following: Following) -> None:
    """Add the nodes of the layers that were not traced, and let later nodes read those of the last layer (rule 4)."""
    first, middle, last, rest = _traced_layers(graph, stack)
    _follow(first, middle, last, following)
    nodes = last
    for layer in range(LAYERS, len(stack.layers)):
        next_nodes = [_next_node(node, stack, layer, following) for node in nodes]
        graph.insert_after(nodes[-1], next_nodes)
        nodes = next_nodes
    for node in rest:
        for place, value in enumerate(node.inputs):
            if value is None or value not in following:
                continue
            if value.producer() not in last:
                raise _unlike(f"{_place(node)} reads {value.name}, which is of one layer only")
            node.replace_input_with(place, _end(value, following))


def _traced_layers(graph: ir.Graph, stack: LayerStack) -> list[list[ir.Node]]:
    """Return the nodes of each layer, then those that come after all layers.

    A layer begins with the first node of its modules and ends where the next one begins; a node in between may be of a
    module outside the layers. The last layer has as many nodes as the one before.
    """
    nodes = list(graph)
    layers = [_layer_from_node(node, stack) for node in nodes]
    if not set(layers).issuperset(range(LAYERS)):
        raise _unlike(f"in the trace, no node is of some layer of {stack.name}")
    starts = [layers.index(layer) for layer in range(LAYERS)]
    bounds = [*starts, 2 * starts[-1] - starts[-2], len(nodes)]
    for layer, (start, stop) in enumerate(pairwise(bounds)):
        for node, found in zip(nodes[start:stop], layers[start:stop], strict=True):
            if found not in {layer, None}:
                raise _unlike(f"{_place(node)} stands among the nodes of another layer")
    return [nodes[start:stop] for start, stop in pairwise(bounds)]


def _layer_from_node(node: ir.Node, stack: LayerStack) -> int | None:
    """Return the number of the layer that the node's module is in, or None if it is in none of this stack."""
    found = re.search(rf"'{re.escape(stack.name)}\.(\d+)[.']", node.metadata_props.get(SCOPES_KEY, ""))
    return int(found[1]) if found else None


def _follow(first: list[ir.Node], middle: list[ir.Node], last: list[ir.Node], following: Following) -> None:
    """Check rules 1 and 2, and note what follows each value that layer 1 computes."""
    if len(middle) != len(last):
        raise _unlike(f"the last layer has {len(last)} nodes, the one before {len(middle)}")
    for node, next_node in zip(middle, last, strict=True):
        if _kind(node) != _kind(next_node):
            raise _unlike(f"{_place(next_node)} is not what {_place(node)} is")
        for value, next_value in zip(node.inputs, next_node.inputs, strict=True):
            known = following.get(value, value) is next_value
            if not known and not _carried(value, next_value, first, middle):
                raise _unlike(
                    f"{_place(next_node)} reads {next_value and next_value.name} "
                    f"where {_place(node)} reads {value and value.name}"
                )
        following.update(zip(node.outputs, next_node.outputs, strict=True))


def _carried(
    value: ir.Value | None, next_value: ir.Value | None, first: Collection[ir.Node], middle: Collection[ir.Node]
) -> bool:
    """Return whether the values are the same output of counterparts in the first layer and the next one."""
    if value is None or next_value is None or value.index() != next_value.index():
        return False
    node, next_node = value.producer(), next_value.producer()
    if node is None or next_node is None or node not in first or next_node not in middle:
        return False
    return _kind(node) == _kind(next_node)


def _kind(node: ir.Node) -> tuple[object, ...]:
    """Return what a node has in common with its counterparts in other layers."""
    attributes = {
        name: attribute.as_tensor().tobytes() if attribute.type == ir.AttributeType.TENSOR else attribute.value
        for name, attribute in node.attributes.items()
    }
    types = [
        (value.dtype, value.shape and [size for size in value.shape if isinstance(size, int)]) for value in node.outputs
    ]
    module = re.sub(r"\blayer\.\d+", "layer", module_from_node(node))
    return node.op_identifier(), len(node.inputs), attributes, module, types


def _next_node(node: ir.Node, stack: LayerStack, layer: int, following: Following) -> ir.Node:
    """Return the node of `layer` that stands in the place of `node`, which is of the layer before (rule 3)."""
    scopes = node.metadata_props.get(SCOPES_KEY, "")
    scopes = re.sub(rf"(?<='{re.escape(stack.name)}\.){layer - 1}(?=[.'])", str(layer), scopes)
    next_node = ir.Node(
        node.domain,
        node.op_type,
        [following.get(value, value) for value in node.inputs],
        # A tensor is copied, for its name; the numbers in it are shared.
        [ir.Attr(name, attribute.type, copy.copy(attribute.value)) for name, attribute in node.attributes.items()],
        overload=node.overload,
        outputs=[_value_like(value) for value in node.outputs],
        metadata_props={**node.metadata_props, SCOPES_KEY: scopes},
    )
    following.update(zip(node.outputs, next_node.outputs, strict=True))
    return next_node


# -- weights, inputs and outputs -------------------------------------------------------------------------------------


def _add_weights(graph: ir.Graph, stack: LayerStack, following: Following) -> None:
    """Put the further layers' weights behind those of the last layer that was traced."""
    values = list(graph.initializers.values())
    traced = [
        [value for value in values if str(value.name).startswith(f"{stack.name}.{layer}.")] for layer in range(LAYERS)
    ]
    layers = [*traced]
    for layer in range(LAYERS, len(stack.layers)):
        layers.append([_next_weight(value, stack, layer) for value in layers[-1]])
    for weights, next_weights in pairwise(layers):
        following.update(zip(weights, next_weights, strict=True))
    end = values.index(traced[-1][-1]) + 1
    graph.initializers.clear()
    for value in (*values[:end], *chain(*layers[LAYERS:]), *values[end:]):
        graph.initializers.add(value)


def _next_weight(value: ir.Value, stack: LayerStack, layer: int) -> ir.Value:
    """Return the weight of `layer` that follows `value`, a weight of the layer before."""
    path = str(value.name).removeprefix(f"{stack.name}.{layer - 1}.")
    weight = _value_like(value, f"{stack.name}.{layer}.{path}")
    weight.const_value = TorchTensor(stack.layers[layer].get_parameter(path), weight.name)
    return weight


def _add_inputs(graph: ir.Graph, call: GraphCall, following: Following) -> None:
    """Add the inputs of the layers that were not traced (rule 5)."""
    values = {str(value.name): value for value in graph.inputs}
    for name, next_name in _numbered(call.inputs, call.layers):
        if next_name not in values:
            values[next_name] = _value_like(values[name], next_name)
        following[values[name]] = values[next_name]
    graph.inputs[:] = [values[name] for name in call.input_names]


def _add_outputs(graph: ir.Graph, call: GraphCall, following: Following) -> None:
    """Add the outputs of the layers that were not traced (rule 5)."""
    values = {str(value.name): value for value in graph.outputs}
    for tensor in call.outputs:
        if tensor.per_layer is None and values[tensor.name] in following:
            raise _unlike(f"one layer computes the output {tensor.name}")
    for name, next_name in _numbered(call.outputs, call.layers):
        value = following.get(values[name], values.get(next_name))
        if value is None or values.setdefault(next_name, value) is not value:
            raise _unlike(f"the output {next_name} is not to its layer what {name} is to the one before")
        value.name = next_name
    graph.outputs[:] = [values[name] for name in call.output_names]


def _numbered(tensors: Sequence[Tensor], layers: int) -> Iterator[tuple[str, str]]:
    """Yield the names of inputs or outputs that are numbered by layer, each with the name one layer on."""
    for tensor in tensors:
        if tensor.per_layer is not None:
            names = tensor.names(layers)
            yield from zip(names, names[max(1, len(tensor.parts)) :], strict=False)


# -- values ----------------------------------------------------------------------------------------------------------


def _value_like(value: ir.Value, name: str | None = None) -> ir.Value:
    """Return a new value of the same type and shape; without `name`, the graph names it."""
    return ir.Value(name=name, type=copy.copy(value.type), shape=value.shape and value.shape.copy())


def _end(value: ir.Value, following: Following) -> ir.Value:
    """Return the value in the place of `value` in the last layer."""
    while value in following:
        value = following[value]
    return value


def _place(node: ir.Node) -> str:
    """Return the module and the operator of a node, for messages."""
    return f"{module_from_node(node)}.{node.op_type}"


def _unlike(what: str) -> GraphError:
    """Return the error for layers that break a rule; `what` says which node does."""
    return GraphError(
        f"The layers of this network are not traced alike: {what}. Trace every layer: export with --trace full."
    )
