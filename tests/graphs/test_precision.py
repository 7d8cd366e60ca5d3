"""Checkpoints whose numbers exceed fp16: naive conversion gives no finite numbers, the recipes stay within tolerance.

All are the embedded default checkpoint with some weights changed; the rest is trained.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from rpln_export.plan.calibration import DEFAULT_TEXTS
from rpln_export.plan.defaults import DEFAULT_CHECKPOINT
from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.emulate import rounding_copy
from rpln_graphs.passes.lower_precision import KEPT_KEY, LowerPrecision
from rpln_graphs.passes.rescale_residual import SHIFT_KEY
from rpln_graphs.recipes import BF16_TOLERANCE, RECIPES, apply_recipe
from rpln_graphs.rewriting.base import counts_from_model
from rpln_graphs.rewriting.initializers import change_initializer
from rpln_graphs.rewriting.ranges import Ranges
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.stress import stress_cases
from rpln_graphs.tolerances import RangeTolerance, Tolerance
from rpln_graphs.trace import trace_model
from rpln_model import RobertaPreLayerNormForTokenClassification as Tagger
from rpln_runtime.tasks import TASKS
from tests.graphs.networks import copied, eager_outputs, limits_from_config
from tests.graphs.text_graphs import Arrays, runner

Change = Callable[[Tagger], None]

TASK = TASKS["token-classification"]
STREAM, ACTIVATION, VALUE, SCORE = 2.0**20, 1.2e5, 1.5e5, 9e4
"""The sizes that values reach in the checkpoints below, in one kind of value each."""
LAYER = 1
"""The layer that is changed in all checkpoints but the first."""
CHANNELS = (3, 17, 90, 101)
PATH = f"encoder.layer.{LAYER}"
FITS = 65504 / 8
MASKED = 1e30
"""No value exceeds this in size, except the lowest number of fp32, which masks keys."""


# -- the checkpoints -------------------------------------------------------------------------------------------------


def leave_as_it_is(_model: Tagger) -> None:
    """Change nothing, as a control: even naive conversion does no harm."""


def stretch_the_stream(model: Tagger) -> None:
    """Multiply the whole residual stream by a factor, which LayerNorm takes out again."""
    factor = STREAM / max(untouched_ranges()[name] for name in stream_values())
    for writer in writers_of(model):
        scale(writer, factor)


def lift_a_few_channels(model: Tagger) -> None:
    """Let one layer add large numbers to four channels that no other layer writes to.

    Later LayerNorms ignore these channels and amplify the others. The numbers cancel in the mean and are powers of two,
    so that neither fp32 nor fp16 loses the other channels by rounding.
    """
    layers = model.base_model.encoder.layer
    amplified = STREAM * (len(CHANNELS) / model.config.hidden_size) ** 0.5 / deviation_behind(LAYER)
    for writer in writers_of(model):
        writer.weight[list(CHANNELS)] = 0
        writer.bias[list(CHANNELS)] = 0
    layers[LAYER].output.dense.bias[list(CHANNELS)] = torch.tensor([STREAM, -STREAM, STREAM, -STREAM])
    later = [
        norm for layer in layers[LAYER + 1 :] for norm in (layer.attention.LayerNorm, layer.intermediate.LayerNorm)
    ]
    for norm in (*later, model.base_model.LayerNorm):
        norm.weight *= amplified
        norm.weight[list(CHANNELS)] = 0


def stretch_the_activation(model: Tagger) -> None:
    """Enlarge the activation inside the feed-forward network. Its second half takes the factor out again."""
    layer = model.base_model.encoder.layer[LAYER]
    factor = ACTIVATION / untouched_ranges()[f"{PATH}.intermediate.Gelu"]
    scale(layer.intermediate.dense, factor)
    layer.output.dense.weight /= factor


def stretch_the_values(model: Tagger) -> None:
    """Enlarge the attention's values. The output projection takes the factor out again."""
    attention = model.base_model.encoder.layer[LAYER].attention
    factor = VALUE / untouched_ranges()[f"{PATH}.attention.self.value.Add"]
    scale(attention.self.value, factor)
    attention.output.dense.weight /= factor


def lift_the_scores(model: Tagger) -> None:
    """Make one channel of each head's queries and keys constant. All scores rise alike, which softmax ignores."""
    attention = model.base_model.encoder.layer[LAYER].attention.self
    for projection in (attention.query, attention.key):
        projection.weight[:: attention.head_size] = 0
        projection.bias[:: attention.head_size] = SCORE**0.5


SPOILED: dict[str, Change] = {
    "stream everywhere": stretch_the_stream,
    "stream in a few channels of one layer": lift_a_few_channels,
    "activation": stretch_the_activation,
    "values": stretch_the_values,
    "scores": lift_the_scores,
}
EVERY_SPOILED = pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED)


def writers_of(model: Tagger) -> list[Any]:
    """Return the modules that add to the residual stream, each with its weight and bias."""
    layers = model.base_model.encoder.layer
    projections = [module.output.dense for layer in layers for module in (layer.attention, layer)]
    return [model.base_model.embeddings.LayerNorm, *projections]


def scale(module: nn.Module, factor: float) -> None:
    for parameter in module.parameters():
        parameter.mul_(factor)


def deviation_behind(layer: int) -> float:
    """Return the typical deviation of the unchanged residual stream at a token after the layer."""
    name = f"hidden_states.{layer + 1}"
    streams = [eager_outputs(tagger(), feeds, ["hidden_states"])[name][mask == 1] for feeds, mask in batches()]
    return float(np.concatenate(streams).std(axis=-1).mean())


# -- what they are compared on ---------------------------------------------------------------------------------------


def tagger() -> Tagger:
    return Tagger.from_pretrained(DEFAULT_CHECKPOINT)


@cache
def changed(change: Change) -> Tagger:
    model = tagger()
    with torch.no_grad():
        change(model)
    return model


@cache
def batches() -> list[tuple[Arrays, NDArray[np.int64]]]:
    """Return inputs with their masks: the stress set, and the texts that an export is calibrated with."""
    stress = [(case.feeds, case.mask) for case in stress_cases(TASK.inputs, limits_from_config(tagger().config))]
    tokenizer = Tokenizer.from_file(str(DEFAULT_CHECKPOINT / "tokenizer.json"))
    texts = [np.array([tokenizer.encode(line).ids]) for line in DEFAULT_TEXTS.read_text(encoding="utf-8").splitlines()]
    return stress + [({"input_ids": ids, "attention_mask": np.ones_like(ids)}, np.ones_like(ids)) for ids in texts]


@cache
def untouched_graph() -> ir.Model:
    return trace_model(tagger(), TASK.inputs, TASK.outputs)


@cache
def untouched_ranges() -> Ranges:
    return ranges_of(untouched_graph())


def ranges_of(graph: ir.Model) -> Ranges:
    return measure_ranges(graph, [feeds for feeds, _ in batches()])


def stream_values() -> list[str]:
    layers = range(tagger().config.num_hidden_layers)
    sums = [f"encoder.layer.{layer}.{add}" for layer in layers for add in ("Add", "Add_1")]
    return ["embeddings.LayerNorm.LayerNormalization", *sums]


def graph_of(model: Tagger) -> ir.Model:
    """Return the graph of `model`, which is that of the unchanged model with other weights."""
    states = {name.removeprefix("roberta_prelayernorm."): tensor for name, tensor in model.state_dict().items()}
    graph = copied(untouched_graph())
    for name, value in graph.graph.initializers.items():
        if name.removesuffix(".T") in states:
            array = states[name.removesuffix(".T")].numpy()
            fill(value, array.T if name.endswith(".T") else array)
    return graph


def fill(value: ir.Value, array: NDArray[Any]) -> None:
    change_initializer(value, lambda _: array)


# -- conversion ------------------------------------------------------------------------------------------------------


@cache
def converted(change: Change, recipe: str) -> ir.Model:
    model = changed(change)
    graph = graph_of(model)
    formulas = GraphTraits(layers=model.config.num_hidden_layers)
    apply_recipe(graph, RECIPES[recipe], formulas, measure=ranges_of)
    return graph


def naively_converted(change: Change) -> ir.Model:
    """Return the graph in fp16, except for the arithmetic of masks, which in fp16 always gives NaN."""
    graph = graph_of(changed(change))
    masks = {name: peak if peak > MASKED else 0.0 for name, peak in untouched_ranges().items()}
    LowerPrecision(dtype=ir.DataType.FLOAT16, ranges=masks)(graph)
    return graph


def logits_of(graph: ir.Model) -> NDArray[Any]:
    """Return the logits [tokens, labels] of all real tokens, computed in fp32 and rounded after every operator."""
    with np.errstate(over="ignore"):  # naive conversion makes weights infinite, too
        compute = runner(rounding_copy(graph))
    return np.concatenate([compute(feeds)["logits"][mask == 1] for feeds, mask in batches()])


@cache
def eager_logits(change: Change) -> NDArray[Any]:
    model = changed(change)
    return np.concatenate([eager_outputs(model, feeds, ["logits"])["logits"][mask == 1] for feeds, mask in batches()])


def difference_of(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference, relative to the expected range, or NaN if anything is NaN."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def disagreement_of(found: NDArray[Any], expected: NDArray[Any], *, resolution: float) -> float:
    """Return the share of tokens with another label, among those whose two best labels the type can tell apart."""
    ranked = np.sort(expected, axis=-1)
    decided = ranked[:, -1] - ranked[:, -2] > resolution * np.abs(expected).max()
    return float((found.argmax(-1) != expected.argmax(-1))[decided].mean())


def assert_accepted(tolerance: Tolerance, found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert isinstance(tolerance, RangeTolerance)
    assert difference_of(found, expected) <= tolerance.difference
    assert disagreement_of(found, expected, resolution=tolerance.resolution) <= 1 - tolerance.argmax_agreement


# -- tests -----------------------------------------------------------------------------------------------------------


def reached(change: Change) -> dict[str, float]:
    """Return the values of the fp32 graph that exceed what fp16 safely holds, except those of masks."""
    graph = graph_of(changed(change))
    computed = {value.name for node in graph.graph for value in node.outputs}
    return {name: peak for name, peak in ranges_of(graph).items() if FITS < peak < MASKED and name in computed}


def test_the_untouched_checkpoint_fits() -> None:
    assert reached(leave_as_it_is) == {}


def test_the_stream_is_beyond_fp16_everywhere() -> None:
    peaks = reached(stretch_the_stream)

    assert max(peaks.values()) == pytest.approx(STREAM, rel=1e-3)
    assert set(stream_values()) <= set(peaks)
    assert not [name for name in peaks if "output.dense" not in name and name not in stream_values()]


def test_the_stream_is_beyond_fp16_in_a_few_channels_of_one_layer() -> None:
    peaks = reached(lift_a_few_channels)

    later = stream_values()[2 * (LAYER + 1) :]  # the LayerNorm of the embeddings, and two of each layer
    assert set(peaks) == {f"{PATH}.output.dense.Add", *later}
    assert all(peak == pytest.approx(STREAM, rel=1e-3) for peak in peaks.values())


@pytest.mark.parametrize(
    ("change", "value", "peak"),
    [
        (stretch_the_activation, "intermediate.Gelu", ACTIVATION),
        (stretch_the_values, "attention.self.value.Add", VALUE),
        (lift_the_scores, "attention.self.MatMul", SCORE),
    ],
)
def test_one_kind_of_value_is_beyond_fp16(change: Change, value: str, peak: float) -> None:
    peaks = reached(change)

    assert peaks[f"{PATH}.{value}"] == pytest.approx(peak, rel=0.05)
    assert all(name.startswith(PATH) for name in peaks)
    assert not set(stream_values()) & set(peaks)


@EVERY_SPOILED
def test_naive_conversion_is_not_finite(change: Change) -> None:
    assert np.isfinite(eager_logits(change)).all()
    assert not np.isfinite(logits_of(naively_converted(change))).all()


def test_naive_conversion_of_the_untouched_checkpoint_is_harmless() -> None:
    found = logits_of(naively_converted(leave_as_it_is))

    assert_accepted(RECIPES["fp16"].tolerance, found, eager_logits(leave_as_it_is))


@pytest.mark.parametrize("change", [leave_as_it_is, *SPOILED.values()], ids=["untouched", *SPOILED])
def test_fp16_is_within_tolerance(change: Change) -> None:
    assert_accepted(RECIPES["fp16"].tolerance, logits_of(converted(change, "fp16")), eager_logits(change))


BF16 = {"untouched": leave_as_it_is} | {name: change for name, change in SPOILED.items() if name != "scores"}


@pytest.mark.parametrize("change", BF16.values(), ids=BF16)
def test_bf16_is_within_tolerance(change: Change) -> None:
    assert_accepted(RECIPES["bf16"].tolerance, logits_of(converted(change, "bf16")), eager_logits(change))


def test_scores_that_bf16_rounds_too_much_exceed_the_tolerance() -> None:
    # bf16 has the range, but rounds a score of 90,000 to a multiple of 512.
    difference = difference_of(logits_of(converted(lift_the_scores, "bf16")), eager_logits(lift_the_scores))

    assert difference > BF16_TOLERANCE.difference


@pytest.mark.parametrize("change", [stretch_the_stream, lift_a_few_channels])
def test_a_stream_beyond_fp16_is_rescaled(change: Change) -> None:
    graph = converted(change, "fp16")

    assert graph.metadata_props[SHIFT_KEY] == "8"  # 2^20 / 2^7 is 8192, more than an eighth of 65,504
    assert counts_from_model(graph)["RescaleResidual"] == 2 + 4 * 4 + 1 + 2 * 4


def test_products_around_a_large_activation_stay_fp32_and_are_named() -> None:
    graph = converted(stretch_the_activation, "fp16")

    kept = json.loads(graph.metadata_props[KEPT_KEY])
    assert set(kept) == {f"{PATH}.intermediate.dense.MatMul", f"{PATH}.output.dense.MatMul"}
    assert min(kept.values()) > 65504
    assert graph.metadata_props[SHIFT_KEY] == "0"


def test_large_values_are_rescaled_and_computed_in_fp16() -> None:
    graph = converted(stretch_the_values, "fp16")

    assert counts_from_model(graph)["RescaleValues"] == 1
    assert json.loads(graph.metadata_props[KEPT_KEY]) == {}


def test_a_product_with_large_scores_stays_fp32_and_is_named() -> None:
    kept = json.loads(converted(lift_the_scores, "fp16").metadata_props[KEPT_KEY])

    assert kept == {f"{PATH}.attention.self.MatMul": pytest.approx(SCORE, rel=0.05)}
