"""val_87, node_linear_3 -> encoder.layer.0.attention.self.query.MatMul."""

from collections.abc import Sequence

import onnx_ir as ir

from rpln_graphs.passes.name_values import NO_MODULE, SCOPES_KEY, NameValues, module_from_node
from rpln_graphs.rewriting.base import counts_from_model
from tests.graphs.text_graphs import model_from_text

TRACED = """
traced (float[rows, 2] x, int64[1] size) => (float[rows, 2] logits, float[rows, 1] other)
<
    float[2] model__roberta_prelayernorm__encoder__layer__0__output__dense__bias = {1, 2},
    float[2] model__classifier__bias = {1, 2},
    float val_3 = {2},
    int64[2] val_4 = {1, 1}
>
{
    node_1 = Add(x, model__roberta_prelayernorm__encoder__layer__0__output__dense__bias)
    node_2 = Mul(node_1, val_3)
    node_3 = Mul(node_2, val_3)
    node_4 = Add(node_3, model__classifier__bias)
    val_5, other = Split<axis = 1>(node_4, val_4)
    logits = Concat<axis = 1>(val_5, other)
}
"""
DENSE = ["", "model", "model.roberta_prelayernorm", "model.roberta_prelayernorm.encoder.layer.0.output.dense"]
SCOPES = (
    [*DENSE, "add_1"],
    [*DENSE, "mul_2"],
    [*DENSE, NO_MODULE, "mul_3"],
    ["", "model", "model.classifier", "add_4"],
    ["", "model", "split_5"],
    ["", "cat_6"],
)

SPLIT = """
split (float[rows, 2] x) => (float[rows, 1] total)
<int64[2] sizes = {1, 1}>
{
    left, right = Split<axis = 1>(x, sizes)
    total = Add(left, right)
}
"""


def named(text: str, scopes: Sequence[Sequence[str]]) -> ir.Model:
    """Return the graph after the pass, with nodes that torch would have traced in these scopes."""
    model = model_from_text(text)
    for node, names in zip(model.graph, scopes, strict=True):
        node.metadata_props[SCOPES_KEY] = repr(list(names))
    NameValues()(model)
    return model


def test_nodes_are_named_after_module_and_operator() -> None:
    model = named(TRACED, SCOPES)

    assert [node.name for node in model.graph] == [
        "encoder.layer.0.output.dense.Add",
        "encoder.layer.0.output.dense.Mul",
        "encoder.layer.0.output.dense.Mul_1",
        "classifier.Add",
        "Split",
        "Concat",
    ]
    assert counts_from_model(model) == {"NameValues": 6}


def test_a_first_output_is_named_after_its_node_and_graph_outputs_keep_their_names() -> None:
    nodes = list(named(TRACED, SCOPES).graph)

    assert [value.name for value in nodes[0].outputs] == ["encoder.layer.0.output.dense.Add"]
    assert [value.name for value in nodes[4].outputs] == ["Split", "other"]
    assert [value.name for value in nodes[5].outputs] == ["logits"]


def test_inputs_keep_their_names() -> None:
    assert [value.name for value in named(TRACED, SCOPES).graph.inputs] == ["x", "size"]


def test_parameters_are_named_as_in_the_state_dict_and_constants_after_their_first_reader() -> None:
    assert set(named(TRACED, SCOPES).graph.initializers) == {
        "encoder.layer.0.output.dense.bias",
        "classifier.bias",
        "encoder.layer.0.output.dense.Mul.1",
        "Split.1",
    }


def test_a_constant_and_an_output_of_one_node_differ_in_name() -> None:
    model = named(SPLIT, [["", "split"], ["", "add"]])

    assert list(model.graph.initializers) == ["Split.1"]
    assert [value.name for value in model.graph[0].outputs] == ["Split", "Split.out1"]


def test_a_node_without_scopes_belongs_to_the_model_itself() -> None:
    assert module_from_node(ir.node("Relu", [])) == ""
