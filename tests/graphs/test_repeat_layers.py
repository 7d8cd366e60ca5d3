"""A trace of three layers whose third is repeated equals a trace of all layers, node for node and name for name."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from rpln_graphs import trace
from rpln_graphs.calls import GraphCall
from rpln_graphs.errors import GraphError
from rpln_graphs.passes.name_values import module_from_node
from rpln_graphs.repeat_layers import repeat_layers
from rpln_graphs.short_networks import short_call
from rpln_graphs.trace import DEFAULT_OPSET, trace_model
from rpln_graphs.trace_methods import FULL, LAYERS, REPEAT
from rpln_runtime.tasks import TASKS
from tests.graphs.decoders import bert_config
from tests.graphs.networks import graph_call, tiny_encoder, tiny_model
from tests.graphs.same_graphs import first_difference
from tests.graphs.test_golden import ROWS
from tests.graphs.text_graphs import values_of

IDS = ("input_ids", "attention_mask")
EMBEDDED = ("attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
INTERNALS = ("hidden_states", "attentions")
GRAPHS = list(dict.fromkeys((task, variant) for task, variant, _ in ROWS))
"""All graphs that have golden files: every graph of every task."""
QUICK = {("token-classification", "full"), ("text-generation", "with-past"), ("text2text-generation", "encoder")}
"""Those that `make test` compares: one of each kind of network."""


def call_with_layers(
    layers: int,
    task: str = "token-classification",
    variant: str = "full",
    *,
    inputs: Sequence[str] = IDS,
    outputs: Sequence[str] = (),
    **fields: Any,
) -> GraphCall:
    """Return the call of a graph of a tiny network with `layers` layers in its decoder, and one more in its encoder."""
    encoder: Any = None
    if variant == "cross":
        encoder = bert_config(32)
    elif variant == "encoder":
        encoder = tiny_encoder(num_hidden_layers=layers + 1)
    model = tiny_model(TASKS[task], num_hidden_layers=layers, encoder=encoder, **fields)
    return graph_call(model, TASKS[task], variant, inputs=inputs, outputs=outputs)


# -- the graph ---------------------------------------------------------------------------------------------------------


def assert_as_traced_in_full(call: GraphCall, *, opset: int = DEFAULT_OPSET) -> None:
    assert short_call(call), "three layers are traced"
    repeated, full = (
        trace_model(call.model, call.inputs, call.outputs, opset=opset, trace=how) for how in (REPEAT, FULL)
    )

    assert not first_difference(repeated, full)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "variant"),
    [pytest.param(*graph, marks=() if graph in QUICK else pytest.mark.full) for graph in GRAPHS],
)
def test_every_graph_is_as_traced_in_full(task: str, variant: str) -> None:
    assert_as_traced_in_full(call_with_layers(LAYERS + 1, task, variant, type_vocab_size=1))


@pytest.mark.full
@pytest.mark.parametrize(
    ("task", "variant", "outputs", "opset"),
    [
        ("token-classification", "full", INTERNALS, 17),
        ("text-generation", "with-past", (), DEFAULT_OPSET),
        ("text2text-generation", "encoder", (), DEFAULT_OPSET),
        ("text2text-generation", "with-past", (*INTERNALS, "cross_attentions"), DEFAULT_OPSET),
    ],
)
def test_twelve_layers_are_as_traced_in_full(task: str, variant: str, outputs: Sequence[str], opset: int) -> None:
    assert_as_traced_in_full(call_with_layers(12, task, variant, outputs=outputs), opset=opset)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "variant", "inputs", "fields"),
    [
        pytest.param("multiple-choice", "full", EMBEDDED, {"hidden_act": "gelu_new"}, marks=pytest.mark.full),
        pytest.param(
            "question-answering", "full", IDS[:1], {"position_embedding_type": "relative_key"}, marks=pytest.mark.full
        ),
        ("text-generation", "with-past", IDS[:1], {"position_embedding_type": "relative_key_query"}),
    ],
)
def test_other_networks_are_as_traced_in_full(task: str, variant: str, inputs: Sequence[str], fields: Any) -> None:
    assert_as_traced_in_full(call_with_layers(LAYERS + 2, task, variant, inputs=inputs, **fields))


def test_weights_are_those_of_the_network_and_no_copies() -> None:
    call = call_with_layers(LAYERS + 2)
    graph = trace_model(call.model, call.inputs, call.outputs).graph
    layer = call.model.roberta_prelayernorm.encoder.layer[-1]
    with torch.no_grad():
        layer.output.dense.weight.fill_(7.0)

    bias = values_of(graph.initializers["encoder.layer.4.output.dense.bias"])
    assert np.shares_memory(bias, layer.output.dense.bias.detach().numpy())
    assert (values_of(graph.initializers["encoder.layer.4.output.dense.weight.T"]) == 7.0).all()


# -- which networks are cut --------------------------------------------------------------------------------------------


def test_a_cut_network_shares_all_weights_and_leaves_the_whole_one_as_it_was() -> None:
    call = call_with_layers(LAYERS + 2)
    weights = dict(call.named_parameters())
    short = short_call(call)
    assert short is not None

    kept = dict(short.named_parameters())
    assert len({name.split(".layer.")[1].split(".")[0] for name in kept if ".layer." in name}) == LAYERS
    assert all(weight is weights[name] for name, weight in kept.items())
    assert (short.layers, short.model.config.num_hidden_layers) == (LAYERS, LAYERS)
    assert call.model.config.num_hidden_layers == len(call.model.roberta_prelayernorm.encoder.layer) == LAYERS + 2
    assert call.model.roberta_prelayernorm.config.num_hidden_layers == LAYERS + 2
    assert all(weight is weights[name] for name, weight in call.named_parameters())


def test_each_stack_is_cut_by_itself() -> None:
    model = tiny_model(
        TASKS["text2text-generation"], num_hidden_layers=2, encoder=tiny_encoder(num_hidden_layers=LAYERS + 1)
    )
    short = short_call(graph_call(model, TASKS["text2text-generation"], "encoder"))
    assert short is not None

    assert short.layers == 2
    assert len(short.model.decoder.roberta_prelayernorm.encoder.layer) == 2
    assert len(short.model.roberta_prelayernorm.encoder.layer) == LAYERS


def test_few_layers_are_all_traced() -> None:
    assert short_call(call_with_layers(LAYERS)) is None


def test_layers_that_differ_are_all_traced() -> None:
    pruned = call_with_layers(LAYERS + 1)
    pruned.model.prune_heads({LAYERS: [1]})
    shared = call_with_layers(LAYERS + 1)
    *_, before, last = shared.model.roberta_prelayernorm.encoder.layer
    last.output.dense.weight = before.output.dense.weight

    assert short_call(pruned) is None
    assert short_call(shared) is None


def test_layers_that_read_a_row_each_of_one_input_are_all_traced() -> None:
    assert short_call(call_with_layers(LAYERS + 1, inputs=(*IDS, "head_mask"))) is None


# -- traces that are not what they should be ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traced() -> tuple[ir.Model, GraphCall]:
    """Return a new trace of three layers, and the call of the five layers that it stands for."""
    call = call_with_layers(LAYERS + 2, outputs=["hidden_states"])
    short = short_call(call)
    assert short is not None
    return trace._export(short, DEFAULT_OPSET), call


def in_module(graph: ir.Graph, name: str, operator: str) -> ir.Node:
    return next(node for node in graph if node.op_type == operator and module_from_node(node) == name)


def change_an_attribute(graph: ir.Graph) -> None:
    in_module(graph, "encoder.layer.2.attention.self", "Softmax").attributes["axis"] = ir.AttrInt64("axis", 1)


def read_another_layer(graph: ir.Graph) -> None:
    first = in_module(graph, "encoder.layer.0.attention.LayerNorm", "LayerNormalization").inputs[0]
    in_module(graph, "encoder.layer.2.attention.LayerNorm", "LayerNormalization").replace_input_with(0, first)


def read_another_weight(graph: ir.Graph) -> None:
    weight = in_module(graph, "encoder.layer.1.attention.self.query", "Transpose").inputs[0]
    in_module(graph, "encoder.layer.2.attention.self.query", "Transpose").replace_input_with(0, weight)


def read_the_middle(graph: ir.Graph) -> None:
    middle = in_module(graph, "encoder.layer.2.attention.LayerNorm", "LayerNormalization").inputs[0]
    in_module(graph, "LayerNorm", "LayerNormalization").replace_input_with(0, middle)


def stand_elsewhere(graph: ir.Graph) -> None:
    node = in_module(graph, "encoder.layer.2.attention.self", "Softmax")
    graph.remove(node)
    graph.append(node)


def return_another_value(graph: ir.Graph) -> None:
    normed = in_module(graph, "LayerNorm", "LayerNormalization").outputs[0]
    graph.outputs[-1].name, normed.name = "last", graph.outputs[-1].name
    graph.outputs[-1] = normed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_an_attribute, "encoder.layer.2.attention.self.Softmax is not what encoder.layer.1.attention.self.Soft"),
        (read_another_layer, "encoder.layer.2.attention.LayerNorm.LayerNormalization reads"),
        (read_another_weight, "encoder.layer.2.attention.self.query.Transpose reads"),
        (read_the_middle, "LayerNorm.LayerNormalization reads"),
        (stand_elsewhere, "encoder.layer.2.attention.self.Softmax stands"),
        (return_another_value, "hidden_states.3"),
    ],
)
def test_a_trace_that_does_not_repeat_is_refused_with_the_node(
    change: Callable[[ir.Graph], None], named: str, traced: tuple[ir.Model, GraphCall]
) -> None:
    graph = traced[0].clone().graph
    change(graph)

    with pytest.raises(GraphError, match=f"{re.escape(named)}.*--trace full"):
        repeat_layers(graph, traced[1])
