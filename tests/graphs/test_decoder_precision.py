"""Decoders whose numbers exceed fp16: naive conversion gives no finite numbers, the recipes stay within tolerance.

All are one encoder-decoder with some weights of the encoder or the decoder changed in ways that cancel out.
"""

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.emulate import rounding_copy
from rpln_graphs.passes.lower_precision import LowerPrecision
from rpln_graphs.passes.rescale_residual import PEAK_KEY, SHIFT_KEY
from rpln_graphs.recipes import BF16_TOLERANCE, FP16_TOLERANCE, RECIPES, Rewrite, apply_recipe_together
from rpln_graphs.rewriting.base import counts_from_model
from rpln_graphs.rewriting.initializers import change_initializer
from rpln_graphs.rewriting.ranges import Ranges
from rpln_graphs.rewriting.traits import GraphTraits
from tests.graphs.decoders import Ids, Player, compute, encode, forward, padded, random_ids, translating, translator
from tests.graphs.networks import copied
from tests.graphs.text_graphs import Arrays

Change = Callable[[Any], None]
Graphs = dict[str, ir.Model]

VARIANTS = ("encoder", "prefill", "with-past")
FLOAT, FLOAT16, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
SAFE = 65504 / 8
MASKED = 1e30
"""No value exceeds this in size, except the lowest number of fp32, which masks keys."""
FACTOR = 2.0**18
"""What values near one are multiplied by, so that fp16 cannot hold them."""
CUTS = (4, 1, 1, 3, 1)
LAYER = 1
"""The layer of the decoder that is changed. The encoder has only one."""


# -- the checkpoints -------------------------------------------------------------------------------------------------


def leave_as_it_is(_model: Any) -> None:
    """Change nothing, as a control: even naive conversion does no harm."""


def stretch_the_stream(model: Any) -> None:
    """Let the decoder's residual stream reach a million. Every LayerNorm takes the factor out again."""
    layers = decoder_layers(model)
    writers = [
        layer_part.output.dense for layer in layers for layer_part in (layer.attention, layer.crossattention, layer)
    ]
    for writer in (model.decoder.base_model.embeddings.LayerNorm, *writers):
        scale(writer, FACTOR)


def stretch_the_encoders_stream(model: Any) -> None:
    """Do the same in the encoder, which has no cross-attention."""
    layer = model.encoder.encoder.layer[0]
    for writer in (model.encoder.embeddings.LayerNorm, layer.attention.output.dense, layer.output.dense):
        scale(writer, FACTOR)


def stretch_values(attention: Any) -> None:
    """Enlarge the values. The output projection takes the factor out again."""
    scale(attention.self.value, FACTOR)
    attention.output.dense.weight /= FACTOR


def stretch_keys(attention: Any) -> None:
    """Enlarge the keys. The queries take the factor out again."""
    scale(attention.self.key, FACTOR)
    scale(attention.self.query, 1 / FACTOR)


def decoder_layers(model: Any) -> Any:
    return model.decoder.base_model.encoder.layer


def scale(module: nn.Module, factor: float) -> None:
    for parameter in module.parameters():
        parameter.mul_(factor)


SPOILED: dict[str, Change] = {
    "stream": stretch_the_stream,
    "encoder's stream": stretch_the_encoders_stream,
    "values": lambda model: stretch_values(decoder_layers(model)[LAYER].attention),
    "values of cross-attention": lambda model: stretch_values(decoder_layers(model)[LAYER].crossattention),
    "encoder's values": lambda model: stretch_values(model.encoder.encoder.layer[0].attention),
    "keys": lambda model: stretch_keys(decoder_layers(model)[LAYER].attention),
    "keys of cross-attention": lambda model: stretch_keys(decoder_layers(model)[LAYER].crossattention),
}
EVERY = {"untouched": leave_as_it_is, **SPOILED}


@cache
def changed(name: str) -> Any:
    model = copy.deepcopy(translator())
    with torch.no_grad():
        EVERY[name](model)
    return model


# -- what they are compared on ---------------------------------------------------------------------------------------


def source() -> Arrays:
    keep = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 1]])
    return {"input_ids": padded(random_ids(*keep.shape, high=53, seed=5), keep), "attention_mask": keep}


def history() -> Ids:
    return random_ids(3, sum(CUTS), seed=6)


@cache
def eager_logits(name: str) -> NDArray[Any]:
    """Return the logits [rows, tokens, vocabulary] of all tokens at once, in fp32."""
    logits = forward(changed(name), **source(), decoder_input_ids=history(), use_cache=False).logits
    return np.asarray(logits)


# -- conversion ------------------------------------------------------------------------------------------------------


def graphs_of(name: str) -> Graphs:
    """Return the graphs of the changed model, which are those of the unchanged one with other weights."""
    states = {**changed(name).state_dict()}
    return {variant: filled(translating(variant).graph, states, variant) for variant in VARIANTS}


def filled(graph: ir.Model, states: dict[str, torch.Tensor], variant: str) -> ir.Model:
    result = copied(graph)
    for name, value in result.graph.initializers.items():
        module = name.removesuffix(".T")
        # The encoder's graph has its own layers, and the decoder's projections of their output, which keep their names.
        of_decoder = variant != "encoder" or ".crossattention." in name
        state = f"decoder.roberta_prelayernorm.{module}" if of_decoder else f"encoder.{module}"
        if module.startswith("lm_head."):
            state = f"decoder.{module}"
        if module.startswith("enc_to_dec_proj."):
            state = module
        if state in states:
            array = states[state].numpy()
            fill(value, array.T if name.endswith(".T") else array)
    return result


def fill(value: ir.Value, array: NDArray[Any]) -> None:
    change_initializer(value, lambda _: array)


def measured(graphs: Graphs, variant: str, graph: ir.Model) -> Ranges:
    """Return the ranges of a graph with the whole history as the prompt, given the unchanged outputs of the encoder."""
    if variant == "encoder":
        return measure_ranges(graph, [source()])
    compute.cache_clear()  # the encoder's graph has changed since
    player = Player(graph, memory=memory_of(graphs["encoder"]))
    ids = history()
    return measure_ranges(graph, [player.feeds(ids, np.ones_like(ids))])


def memory_of(encoder: ir.Model) -> Arrays:
    _, memory = encode(encoder, source())
    return {"encoder_attention_mask": source()["attention_mask"], **memory}


@cache
def converted(name: str, recipe: str) -> Graphs:
    graphs = graphs_of(name)
    formulas = {
        "encoder": GraphTraits(layers=1),
        "prefill": GraphTraits(layers=2, cross_attention=True),
        "with-past": GraphTraits(layers=2, cross_attention=True),
    }
    apply_recipe_together(
        [
            Rewrite(model=graph, traits=formulas[variant], measure=partial(measured, graphs, variant))
            for variant, graph in graphs.items()
        ],
        RECIPES[recipe],
    )
    return graphs


def naively_converted(name: str) -> Graphs:
    """Return the graph in fp16, except for the arithmetic of masks, which in fp16 always gives NaN."""
    graphs = graphs_of(name)
    ranges = {variant: measured(graphs, variant, graph) for variant, graph in graphs.items()}
    for variant, graph in graphs.items():
        masks = {value: peak if peak > MASKED else 0.0 for value, peak in ranges[variant].items()}
        LowerPrecision(dtype=FLOAT16, ranges=masks)(graph)
    return graphs


def rounded(graph: ir.Model) -> ir.Model:
    """Return the graph that rounds after each operator; its outputs keep their names."""
    result = rounding_copy(graph)
    names = [str(value.name) for value in graph.graph.outputs]
    for value in [value for node in result.graph for value in node.outputs]:
        if value.name in names:
            value.name = f"{value.name}.exact"
    for value, name in zip(result.graph.outputs, names, strict=True):
        value.name = name
    return result


def stepped_logits(graphs: Graphs, prompt: str) -> list[NDArray[Any]]:
    """Return the logits of the last position of each step, computed in fp32 and rounded after every operator."""
    with np.errstate(over="ignore"):  # naive conversion makes weights infinite, too
        copies = {variant: rounded(graphs[variant]) for variant in {"encoder", prompt, "with-past"}}
        player = Player(copies[prompt], copies["with-past"], memory_of(copies["encoder"]))
        ids = history()
        return [found["logits"][:, 0] for found in player.play(ids, np.ones_like(ids), CUTS)]


def difference(graphs: Graphs, name: str, prompt: str) -> float:
    """Return the largest difference of a step, relative to the largest expected logit, or NaN if anything is NaN."""
    expected = eager_logits(name)[:, np.cumsum(CUTS) - 1]
    found = np.stack(stepped_logits(graphs, prompt), axis=1)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# -- tests -----------------------------------------------------------------------------------------------------------


REACHED = {
    "stream": ("with-past", f"encoder.layer.{LAYER}.Add_2"),
    "encoder's stream": ("encoder", "encoder.layer.0.Add_1"),
    "values": ("with-past", f"present.{LAYER}.value"),
    "values of cross-attention": ("encoder", f"cross_key_values.{LAYER}.value"),
    "encoder's values": ("encoder", "encoder.layer.0.attention.self.value.Add"),
    "keys": ("prefill", f"present.{LAYER}.key"),
    "keys of cross-attention": ("with-past", f"cross_key_values.{LAYER}.key"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_changed_leaves_fp16_in_a_network_that_fp32_computes(name: str) -> None:
    variant, value = REACHED[name]
    graphs = graphs_of(name)

    assert measured(graphs, variant, graphs[variant])[value] > 65504
    assert np.isfinite(eager_logits(name)).all()


@pytest.mark.parametrize("name", SPOILED)
def test_naive_conversion_is_not_finite(name: str) -> None:
    assert not np.isfinite(difference(naively_converted(name), name, "with-past"))


def test_naive_conversion_of_the_untouched_checkpoint_is_harmless() -> None:
    found = difference(naively_converted("untouched"), "untouched", "with-past")

    assert found <= FP16_TOLERANCE.difference


@pytest.mark.parametrize("prompt", ["with-past", "prefill"])
@pytest.mark.parametrize("name", EVERY)
def test_fp16_is_within_tolerance_over_all_steps(name: str, prompt: str) -> None:
    found = difference(converted(name, "fp16"), name, prompt)

    assert 0 < found <= FP16_TOLERANCE.difference


@pytest.mark.parametrize("name", ["untouched", "values", "keys of cross-attention"])
def test_bf16_is_within_tolerance_over_all_steps(name: str) -> None:
    found = difference(converted(name, "bf16"), name, "prefill")

    assert 0 < found <= BF16_TOLERANCE.difference


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("untouched", {"encoder": (0, 0), "prefill": (0, 0), "with-past": (0, 0)}),
        # L layers of a decoder have 2 + 2 * 3 L weights and biases in the stream, and 1 + 3 L LayerNorms.
        ("stream", {"encoder": (0, 0), "prefill": (14 + 7, 0), "with-past": (14 + 7, 0)}),
        # L layers of an encoder have 2 + 2 * 2 L and 1 + 2 L.
        ("encoder's stream", {"encoder": (6 + 3, 0), "prefill": (0, 0), "with-past": (0, 0)}),
        ("values", {"encoder": (0, 0), "prefill": (0, 1), "with-past": (0, 1)}),
        ("values of cross-attention", {"encoder": (0, 1), "prefill": (0, 1), "with-past": (0, 1)}),
        ("encoder's values", {"encoder": (0, 1), "prefill": (0, 0), "with-past": (0, 0)}),
        ("keys", {"encoder": (0, 0), "prefill": (0, 0), "with-past": (0, 0)}),
    ],
)
def test_what_leaves_the_range_is_rescaled_and_nothing_else(name: str, counts: dict[str, tuple[int, int]]) -> None:
    found = {variant: counts_from_model(graph) for variant, graph in converted(name, "fp16").items()}

    assert {
        variant: (passes["RescaleResidual"], passes["RescaleValues"]) for variant, passes in found.items()
    } == counts


def test_a_stream_of_a_million_is_shifted_alike_in_all_graphs_of_the_decoder() -> None:
    metadata = {variant: graph.metadata_props for variant, graph in converted("stream", "fp16").items()}
    shifts = {variant: int(properties[SHIFT_KEY]) for variant, properties in metadata.items()}

    assert float(metadata["with-past"][PEAK_KEY]) > 1e6
    assert shifts["prefill"] == shifts["with-past"] >= 7  # 1e6 / 2^7 is less than an eighth of 65,504
    assert shifts["encoder"] == 0


def cache_types(graph: ir.Model) -> dict[str, ir.DataType | None]:
    names = ("past_key_values.", "present.", "cross_key_values.")
    values = (*graph.graph.inputs, *graph.graph.outputs)
    return {str(value.name): value.dtype for value in values if str(value.name).startswith(names)}


@pytest.mark.parametrize(("recipe", "dtype"), [("fp16", FLOAT16), ("bf16", BFLOAT16)])
def test_keys_and_values_are_handed_on_in_the_lower_type(recipe: str, dtype: ir.DataType) -> None:
    for graph in converted("untouched", recipe).values():
        assert set(cache_types(graph).values()) == {dtype}


@pytest.mark.parametrize(
    ("name", "wide"),
    [
        ("values", set()),  # they are rescaled
        ("keys", {f"past_key_values.{LAYER}.key", f"present.{LAYER}.key"}),
        ("keys of cross-attention", {f"cross_key_values.{LAYER}.key"}),
    ],
)
def test_what_fp16_cannot_hold_is_handed_on_in_fp32_by_every_graph(name: str, wide: set[str]) -> None:
    for variant, graph in converted(name, "fp16").items():
        types = cache_types(graph)
        assert {value for value, dtype in types.items() if dtype == FLOAT} == wide & set(types), variant
        assert set(types.values()) <= {FLOAT, FLOAT16}


def test_a_cache_holds_values_as_each_graph_scales_them() -> None:
    ids = history()
    presents = []
    for prompt in ("with-past", "prefill"):
        copies = {variant: rounded(graph) for variant, graph in converted("values", "fp16").items()}
        player = Player(copies[prompt], memory=memory_of(copies["encoder"]))
        presents.append(player(ids, np.ones_like(ids))[f"present.{LAYER}.value"])

    assert np.abs(presents[0]).max() <= SAFE
    np.testing.assert_array_equal(presents[0], presents[1])
