"""What is true of every traced graph, whatever it computes."""

import re
from collections.abc import Iterator

import onnx_ir as ir
from numpy.testing import assert_array_equal

from rpln_graphs.stages import EncoderStage
from rpln_graphs.trace import EXAMPLE_SIZES
from rpln_model.config import ABSOLUTE, position_type, pruned_heads
from rpln_runtime.tasks import BATCH_CHOICES
from tests.graphs.networks import Network
from tests.graphs.text_graphs import operators, values_of

GRAPHS = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
SIZES = {"head_size": 8, "encoder_hidden_size": 24}
"""The sizes of axes that are named after something that follows from a config."""
SELF_ATTENTION = ("past_key_values.", "present.", "attentions.")
"""The beginnings of names of inputs and outputs with an axis of self-attention heads, some of which may be pruned."""
PROJECTED = re.compile(r"crossattention\.self\.(key|value)\.")
"""Weights that project an encoder's output to keys and values. They are in the encoder's graph only."""


def assert_clean(model: ir.Model) -> None:
    assert not model.functions
    assert {node.domain for node in model.graph} == {""}
    assert not {"If", "Loop", "Scan", "Identity", "Constant"} & set(operators(model))
    assert not [node for node in model.graph for attribute in node.attributes.values() if attribute.type in GRAPHS]
    assert not [node.name for node in model.graph if node.metadata_props]


def assert_initializers_are_the_state_dict(network: Network) -> None:
    """Check that the initializers are the weights that an output depends on, each once."""
    states = {graph_name(name): tensor for name, tensor in network.model.state_dict().items() if used(name, network)}
    found = []
    for name, value in parameters_of(network.graph):
        tensor = states[name.removesuffix(".T")]
        assert_array_equal(values_of(value), tensor.T if name.endswith(".T") else tensor, err_msg=name)
        found.append(tensor.data_ptr())
    # A tied weight has two names in the state dict, and one in the graph.
    assert sorted(found) == sorted({tensor.data_ptr() for tensor in states.values()})


def assert_weights_are_stored_once(network: Network) -> None:
    """Check that all initializers are as large as the parameters and a few dozen constants."""
    initializers = [values_of(value) for value in network.graph.graph.initializers.values()]
    parameters = [
        parameter  # a tied parameter is listed once
        for name, parameter in network.model.named_parameters()
        if used(name, network)
    ]
    expected = sum(parameter.nbytes for parameter in parameters)
    assert expected < sum(array.nbytes for array in initializers) < expected + 400


def parameters_of(model: ir.Model) -> Iterator[tuple[str, ir.Value]]:
    """Return the initializers that are not constants of the trace, which are named after a node that reads them."""
    nodes = {node.name for node in model.graph}
    for name, value in model.graph.initializers.items():
        if name.rpartition(".")[0] not in nodes and not name.startswith("shape."):
            yield name, value


def used(name: str, network: Network) -> bool:
    """Return whether a tensor of the state dict is in the graph, because an output depends on it."""
    if "token_type_embeddings" in name:
        # Without token types as inputs, one row of their table is in the graph, as a constant.
        return "token_type_ids" in {tensor.name for tensor in network.inputs}
    if isinstance(network.model, EncoderStage):
        return bool(PROJECTED.search(name)) or not re.match(r"decoder\.|roberta_prelayernorm\.pooler\.", name)
    outputs = {tensor.name for tensor in network.outputs}
    if "position_embeddings" in name:
        return position_type(network.config) == ABSOLUTE
    if "last_hidden_state" in outputs and "pooler_output" not in outputs:
        return not name.startswith("pooler.")
    return not PROJECTED.search(name)


def graph_name(name: str) -> str:
    """Return the name that a tensor of the state dict has in the graph."""
    return name.removeprefix("decoder.").removeprefix("roberta_prelayernorm.")


def assert_axes(network: Network) -> None:
    """Check that dynamic axes have the task's names, and others the sizes of the config, less the heads pruned."""
    dynamic = {*EXAMPLE_SIZES, BATCH_CHOICES}
    graph, config = network.graph.graph, network.config
    declared = [
        (name, tensor)
        for tensor in (*network.inputs, *network.outputs)
        for name in tensor.names(config.num_hidden_layers)
    ]
    for value, (name, tensor) in zip([*graph.inputs, *graph.outputs], declared, strict=True):
        layer = int(name.split(".")[1]) if name.startswith(SELF_ATTENTION) else None
        gone = 0 if layer is None else len(pruned_heads(config).get(layer, ()))
        fixed = SIZES | {"num_attention_heads": config.num_attention_heads - gone}
        sizes = [
            axis if axis in dynamic or isinstance(axis, int) else fixed.get(axis) or getattr(config, axis)
            for axis in tensor.axes
        ]
        assert value.name == name
        assert value.shape is not None
        assert [size if isinstance(size, int) else size.value for size in value.shape] == sizes, name
