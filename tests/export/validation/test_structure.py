"""What outputs cannot tell is read back from a graph: an error in one layer is named, and sound graphs have none."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from rpln_export.errors import ValidationError
from rpln_export.validation.structure import called_modules, folded_scales, structural_faults
from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.calls import GraphCall
from rpln_graphs.forms import FORMS, write_form
from rpln_graphs.passes.rescale_residual import SHIFT_KEY
from rpln_graphs.recipes import FOLDS, RECIPES, apply_recipe
from rpln_graphs.rewriting.base import CountingPass
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.rewriting.values import operand
from rpln_graphs.stages import EncoderStage
from rpln_graphs.trace import trace_model
from rpln_graphs.variants import VARIANTS
from rpln_model import EncoderDecoderModel
from rpln_model.activations import ACTIVATIONS
from rpln_model.layers import AttentionHeads
from tests.export.checkpoints import DECODER, config_fields_of, encoder_decoder_config, make_config, make_tokenizer
from tests.export.conftest import Sabotaged
from tests.export.sabotage import scaled
from tests.graphs.fusions import GRAPHS, LAYERS, applied, traced
from tests.graphs.networks import copied, trace_task

TRAITS = GraphTraits(layers=LAYERS)
Change = Callable[[ir.Model], None]


def faults(task: str, graph: ir.Model, standard: ir.Model | None = None, *, variant: str = "full") -> list[str]:
    network = traced(task, variant)
    called = called_modules(network.call, network.stress_cases()[-2].feeds)
    folded = folded_scales(standard or graph, called)
    return structural_faults(graph, called, folded=folded)


@pytest.mark.parametrize("folds", [(), FOLDS], ids=["traced", "folded"])
@pytest.mark.parametrize(("task", "variant"), GRAPHS)
def test_sound_graphs_have_no_faults_in_any_form(
    task: str, variant: str, folds: tuple[type[CountingPass], ...]
) -> None:
    standard = applied(traced(task, variant).graph, *folds)
    for form in FORMS.values():
        graph = write_form(standard, form, TRAITS, allow_partial=True)
        assert faults(task, graph, standard, variant=variant) == [], form.name


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sound_graphs_of_lower_types_have_no_faults(precision: str) -> None:
    network = traced("fill-mask")
    graph = copied(network.graph)
    batches = [case.feeds for case in network.stress_cases()[-3:]]
    apply_recipe(graph, RECIPES[precision], TRAITS, measure=lambda model: measure_ranges(model, batches))
    assert faults("fill-mask", graph) == []


def test_a_scaled_residual_stream_is_no_fault() -> None:
    network = traced("fill-mask")
    graph = copied(network.graph)
    batches = [case.feeds for case in network.stress_cases()[-3:]]

    def measured_as_large(model: ir.Model) -> dict[str, float]:
        return {name: 1e4 * reach for name, reach in measure_ranges(model, batches).items()}

    apply_recipe(graph, RECIPES["fp16"], TRAITS, measure=measured_as_large)
    assert int(graph.metadata_props[SHIFT_KEY]) > 0
    assert faults("fill-mask", graph) == []


def epsilon_of_one_norm(graph: ir.Model) -> None:
    norm = [node for node in graph.graph if node.op_type == "LayerNormalization"][2]
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 3e-6)


def scale_of_one_attention(graph: ir.Model) -> None:
    """Make one scale larger by one in ten thousand."""
    softmax = [node for node in graph.graph if node.op_type == "Softmax"][1]
    (scaling,) = [node for node in softmax.predecessors()[0].predecessors() if node.op_type == "Mul"][:1]
    (factor,) = [value for value in scaling.inputs if value is not None and value.is_initializer()]
    assert factor.const_value is not None
    wrong = ir.tensor(factor.const_value.numpy() * factor.const_value.numpy().dtype.type(1.0001), name="wrong")
    replacement = ir.Value(name="wrong", const_value=wrong, type=factor.type, shape=factor.shape)
    graph.graph.initializers.add(replacement)
    scaling.replace_input_with(list(scaling.inputs).index(factor), replacement)


def tanh_in_one_gelu(graph: ir.Model) -> None:
    gelu = next(node for node in graph.graph if node.op_type == "Gelu")
    gelu.attributes["approximate"] = ir.AttrString("approximate", "tanh")


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (epsilon_of_one_norm, "3e-06 (1 times)"),
        (scale_of_one_attention, "layer.1.attention"),
        (tanh_in_one_gelu, "gelus in their exact form"),
        (scaled("encoder.layer.1.attention.self.query.weight.T", 1.0001), "layer.1.attention"),
    ],
    ids=["epsilon", "scale", "gelu", "scale-in-the-weight"],
)
def test_an_error_in_one_layer_is_found(change: Change, fact: str) -> None:
    graph = copied(traced("fill-mask").graph)
    change(graph)
    (found,) = faults("fill-mask", graph)
    assert fact in found


def test_a_wrong_scale_that_was_folded_is_found() -> None:
    graph = applied(traced("fill-mask").graph, *FOLDS)
    scaled("encoder.layer.0.attention.self.query.weight.T", 1.0001)(graph)
    (found,) = faults("fill-mask", graph)
    assert "encoder.layer.0.attention" in found


@pytest.mark.parametrize(("attribute", "value", "fact"), [("num_heads", 2, "heads"), ("scale", 0.3, "scales")])
def test_an_error_in_a_fused_attention_is_found(attribute: str, value: float, fact: str) -> None:
    standard = traced("fill-mask").graph
    graph = write_form(standard, FORMS["fused"], TRAITS, allow_partial=True)
    node = next(node for node in graph.graph if node.op_type == "MultiHeadAttention")
    node.attributes[attribute] = (
        ir.AttrInt64(attribute, value) if isinstance(value, int) else ir.AttrFloat32(attribute, value)
    )
    (found,) = faults("fill-mask", graph, standard)
    assert fact in found


def test_a_layer_norm_too_few_is_found() -> None:
    graph = copied(traced("fill-mask").graph)
    norm = next(node for node in graph.graph if node.op_type == "LayerNormalization")
    norm.outputs[0].replace_all_uses_with(operand(norm, 0))
    graph.graph.remove(norm)
    (found,) = faults("fill-mask", graph)
    assert "(6 times)" in found
    assert "(7 times)" in found


@pytest.mark.parametrize("change", [epsilon_of_one_norm, tanh_in_one_gelu], ids=["epsilon", "gelu"])
def test_an_export_of_another_network_is_refused(sabotaged: Sabotaged, change: Change) -> None:
    result = sabotaged(change, "text-classification")
    assert result.exit_code == ValidationError.exit_code, result.output
    assert "model.onnx is not the network that was loaded" in result.stderr


@pytest.mark.parametrize(
    ("hidden_act", "opset"),
    [
        ("gelu", 17),
        ("gelu_new", 17),
        ("gelu_10", 20),
        ("laplace", 20),
        ("tanh", 20),
        # Mish is an operator of opset 18 and newer, and the trace refuses older ones.
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in product(ACTIVATIONS, (17, 20))
            if case != ("mish", 17)
        ),
    ],
)
def test_sound_graphs_have_no_faults_with_any_activation(hidden_act: str, opset: int) -> None:
    # The head of text classification has a tanh of its own, and before opset 20 gelus are written out.
    network = trace_task("text-classification", hidden_act=hidden_act, opset=opset)
    called = called_modules(network.call, network.stress_cases()[-2].feeds)
    assert structural_faults(network.graph, called, folded=folded_scales(network.graph, called)) == []


def test_encoder_and_decoder_may_have_other_activations(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    fields = config_fields_of("text2text-generation", vocab_size=len(tokenizer))
    encoder, decoder = make_config(**(fields | {"hidden_act": "gelu_new"})), make_config(**(fields | DECODER))
    model = EncoderDecoderModel(encoder_decoder_config(encoder, decoder))
    call = GraphCall(EncoderStage(model), VARIANTS["encoder"].inputs, VARIANTS["encoder"].outputs).eval()
    ids = np.array([[5, 6, 7]])
    called = called_modules(call, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    graph = trace_model(call.model, call.inputs, call.outputs)
    folded = folded_scales(graph, called)
    assert structural_faults(graph, called, folded=folded) == []
    tanh = next(node for node in graph.graph if node.op_type == "Gelu")
    tanh.attributes["approximate"] = ir.AttrString("approximate", "none")
    assert len(structural_faults(graph, called, folded=folded)) == 1


def test_query_weights_of_zero_hide_their_scale_and_are_no_fault() -> None:
    network = trace_task("fill-mask")
    for module in network.model.modules():
        if isinstance(module, AttentionHeads):
            torch.nn.init.zeros_(module.query.weight)
    graph = applied(network.graph, *FOLDS)
    called = called_modules(network.call, network.stress_cases()[-2].feeds)
    assert structural_faults(graph, called, folded=folded_scales(graph, called)) == []
