"""x -> 2^-k x in the whole residual stream, LayerNorm(x; eps) -> LayerNorm(x; eps 4^-k)."""

import onnx_ir as ir
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.errors import PassError
from rpln_graphs.passes.rescale_residual import PEAK_KEY, SHIFT_KEY, RescaleResidual, residual_peak
from rpln_graphs.recipes import RECIPES, apply_recipe
from rpln_graphs.rewriting.base import Context, counts_from_model
from rpln_graphs.rewriting.ranges import Ranges, shift_for_range
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.residual_networks import DECODER, ENCODER, FEEDS, residual_network
from tests.graphs.text_graphs import model_from_text, node_named, run, values_of

EPSILON = 0.01


def rescale(model: ir.Model, shift: int) -> None:
    RescaleResidual(shift=shift, peak=0.0)(model)


def peaks(model: ir.Model, *, stream: float) -> Ranges:
    """Return ranges in which every value reaches 1, except the residual stream of layer 1, which reaches `stream`."""
    names = [*model.graph.initializers, *(value.name or "" for node in model.graph for value in node.outputs)]
    return {**dict.fromkeys(["embedded", *names], 1.0), "hidden_states.1": stream}


@pytest.mark.parametrize("shift", range(1, 13))
def test_outputs_are_equal_to_the_last_bit(shift: int) -> None:
    model = residual_network(layers=2)
    before = run(model, FEEDS)
    rescale(model, shift)

    after = run(model, FEEDS)
    assert list(after) == list(before)
    for name, array in before.items():
        assert_array_equal(after[name], array, err_msg=name)


def test_the_stream_itself_is_scaled() -> None:
    model = residual_network(layers=2)
    before = run(model, FEEDS)
    rescale(model, 3)
    model.graph.outputs.append(node_named(model, "encoder.layer.1.attention.sum").outputs[0])
    model.graph.outputs.append(node_named(model, "hidden_states.1").outputs[0])

    after = run(model, FEEDS)
    assert_array_equal(after["hidden_states.1.scaled"] * 8, before["hidden_states.1"])
    assert_array_equal(after["hidden_states.1"], before["hidden_states.1"])


def test_only_readers_of_the_stream_get_another_epsilon() -> None:
    model = residual_network(layers=1, epsilon=EPSILON)
    rescale(model, 2)

    epsilons = {
        str(node.inputs[1] and node.inputs[1].name): node.attributes["epsilon"].as_float()
        for node in model.graph
        if node.op_type == "LayerNormalization"
    }
    assert epsilons == {
        "embeddings.LayerNorm.weight": pytest.approx(EPSILON),
        "encoder.layer.0.attention.LayerNorm.weight": pytest.approx(EPSILON / 16),
        "encoder.layer.0.intermediate.LayerNorm.weight": pytest.approx(EPSILON / 16),
        "LayerNorm.weight": pytest.approx(EPSILON / 16),
        "lm_head.layer_norm.weight": pytest.approx(EPSILON),
    }


def test_only_what_is_added_into_the_stream_is_scaled() -> None:
    model, original = residual_network(layers=1), residual_network(layers=1)
    rescale(model, 2)

    scaled = {
        "embeddings.LayerNorm.weight",
        "embeddings.LayerNorm.bias",
        "encoder.layer.0.attention.output.dense.weight.T",
        "encoder.layer.0.attention.output.dense.bias",
        "encoder.layer.0.output.dense.weight.T",
        "encoder.layer.0.output.dense.bias",
    }
    for name, value in original.graph.initializers.items():
        factor = 0.25 if name in scaled else 1.0
        assert_array_equal(values_of(model.graph.initializers[name]), values_of(value) * factor, err_msg=name)


@pytest.mark.parametrize(
    ("blocks", "layers", "places"),
    [
        (ENCODER, 1, 2 + 4 + 1 + 2),  # weights and biases written, epsilons read: 2 + 2 * 2 L and 1 + 2 L
        (ENCODER, 3, 2 + 12 + 1 + 6),
        (DECODER, 1, 2 + 6 + 1 + 3),  # 2 + 2 * 3 L and 1 + 3 L
        (DECODER, 2, 2 + 12 + 1 + 6),
    ],
)
def test_the_formula_tells_the_count(blocks: tuple[str, ...], layers: int, places: int) -> None:
    model = residual_network(layers=layers, blocks=blocks)
    rescaling = RescaleResidual(shift=1, peak=0.0)
    rescaling(model)

    assert counts_from_model(model) == {"RescaleResidual": places}
    assert rescaling.expected(GraphTraits(layers=layers, cross_attention=blocks == DECODER)) == places


def test_a_stream_that_fits_is_left_alone() -> None:
    model = residual_network(layers=1)
    rescaling = RescaleResidual.configure(model, Context(ranges=peaks(model, stream=8188.0)))
    result = rescaling(model)

    assert not result.modified
    assert counts_from_model(model) == {"RescaleResidual": 0}
    assert rescaling.expected(GraphTraits(layers=1)) == 0
    assert model.metadata_props[SHIFT_KEY] == "0"


def test_shift_and_peak_are_recorded() -> None:
    model = residual_network(layers=1)
    RescaleResidual.configure(model, Context(ranges=peaks(model, stream=1e6)))(model)

    assert model.metadata_props[SHIFT_KEY] == "7"
    assert float(model.metadata_props[PEAK_KEY]) == 1e6


@pytest.mark.parametrize(
    ("peak", "shift"),
    [(0.0, 0), (1.0, 0), (8188.0, 0), (8188.5, 1), (16376.0, 1), (65504.0, 3), (1e6, 7), (8188.0 * 4096, 12)],
)
def test_the_smallest_shift_with_headroom_is_taken(peak: float, shift: int) -> None:
    assert shift_for_range(peak) == shift


def test_the_peak_is_that_of_the_stream_only() -> None:
    model = residual_network(layers=1)
    ranges = {**peaks(model, stream=300.0), "lm_head": 1e9, "embedded": 1e9, "last_hidden_state": 1e9}

    assert residual_peak(model, ranges) == 300.0


@pytest.mark.parametrize(
    "missing", ["encoder.layer.0.output.dense.bias", "encoder.layer.0.attention.output.dense.weight.T"]
)
def test_a_graph_the_pass_does_not_know_is_refused(missing: str) -> None:
    model = residual_network(layers=1)
    model.graph.initializers[missing].name = "unknown"
    ranges = peaks(model, stream=1e6)

    with pytest.raises(PassError, match=r"found 5 weights and biases.* 3 LayerNorms.* encoder.layer.0"):
        apply_recipe(model, RECIPES["fp16"], GraphTraits(layers=1), measure=lambda _: ranges)


def test_a_layer_more_than_the_network_has_is_refused() -> None:
    model = residual_network(layers=2)
    ranges = peaks(model, stream=1e6)

    with pytest.raises(PassError, match=r"RescaleResidual changed 15 .* 9"):
        apply_recipe(model, RECIPES["fp16"], GraphTraits(layers=1), measure=lambda _: ranges)


PROJECTIONS = """
cross (float[rows, 2] encoder_hidden_states) => (float[rows, 2] cross_key_values__0__value)
<float[2, 2] encoder__layer__0__crossattention__self__value__weight__T = {1, 2, 3, 4}>
{
    cross_key_values__0__value
        = MatMul(encoder_hidden_states, encoder__layer__0__crossattention__self__value__weight__T)
}
"""


def test_a_graph_without_a_stream_is_left_alone() -> None:
    model = model_from_text(PROJECTIONS)
    reached = 1e6  # projections of another encoder's output
    rescaling = RescaleResidual.configure(model, Context(ranges={"encoder_hidden_states": reached}))
    result = rescaling(model)

    assert not result.modified
    assert rescaling.expected(GraphTraits(layers=0)) == 0
    assert (model.metadata_props[SHIFT_KEY], model.metadata_props[PEAK_KEY]) == ("0", "0.0")
