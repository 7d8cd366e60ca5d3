"""Packed networks give at real tokens what the unpacked graph and eager torch give, under all masks.

Graphs are run without optimization. Packing changes the number of rows of a product, which on some machines changes the
last bit of a sum. EXACT allows for that, and is far below the effect of a wrong token.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_ir.passes import common
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.emulate import rounding_copy
from rpln_graphs.passes.fuse_skip_layer_norm import FuseSkipLayerNorm
from rpln_graphs.passes.pack_tokens import PackTokens
from rpln_graphs.passes.select_rows import SelectRows
from rpln_graphs.recipes import FOLDS, RECIPES, apply_recipe
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.stress import random_mask
from rpln_model.sentences import POOLINGS
from rpln_runtime.tasks import TASKS
from tests.graphs.fusions import applied, count, reasons
from tests.graphs.networks import PAD, USABLE_LENGTH, Network, copied, trace_task
from tests.graphs.real_tokens import eager_difference, packing_difference
from tests.graphs.text_graphs import Arrays, runner

EXACT = 1e-6
FP32 = 1e-5
LAYERS = 2

TOKENS = ("input_ids", "attention_mask", "token_type_ids")
EMBEDDED = ("inputs_embeds", "attention_mask", "token_type_ids")
INTERNALS = ("hidden_states", "attentions")

NETWORKS: dict[str, dict[str, Any]] = {
    **{task.name: {"name": task.name} for task in TASKS.values() if task.postprocess is not None},
    "one token type": {"name": "token-classification", "inputs": TOKENS[:2], "type_vocab_size": 1},
    "internals": {"name": "token-classification", "outputs": INTERNALS},
    "pooled": {"name": "feature-extraction", "outputs": ("pooler_output",)},
    "vectors of texts": {"name": "feature-extraction", "poolings": tuple(POOLINGS)},
    "internals of choices": {"name": "multiple-choice", "outputs": INTERNALS},
    "embeddings given": {"name": "question-answering", "inputs": EMBEDDED},
    "embeddings of choices given": {"name": "multiple-choice", "inputs": EMBEDDED},
    "positions given": {"name": "fill-mask", "inputs": (*TOKENS, "position_ids")},
    "heads masked": {"name": "token-classification", "inputs": (*TOKENS, "head_mask")},
    "distances": {"name": "token-classification", "position_embedding_type": "relative_key"},
    "distances of queries": {"name": "text-classification", "position_embedding_type": "relative_key_query"},
    "heads gone": {"name": "token-classification", "pruned_heads": {0: [1], 1: [0, 3]}},
    "an encoder": {"name": "text2text-generation", "variant": "encoder"},
    "every logit of a decoder": {"name": "text-generation", "variant": "full", "all_logits": True},
    "every logit over an encoder": {"name": "text2text-generation", "variant": "full", "all_logits": True},
}
CONTEXTS = {
    # If a head reads only the first token, the last layer's context has one row.
    "text-classification": LAYERS - 1,
    "multiple-choice": LAYERS - 1,
    "distances of queries": LAYERS - 1,
    "embeddings of choices given": LAYERS - 1,
    "an encoder": 1,  # the number of its layers
    "every logit over an encoder": 2 * LAYERS,
}


@cache
def network(name: str) -> Network:
    return trace_task(**NETWORKS[name])


@cache
def folded(name: str) -> ir.Model:
    return applied(network(name).graph, *FOLDS)


@cache
def packed(name: str) -> ir.Model:
    return applied(folded(name), PackTokens)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_context_is_packed_again(name: str) -> None:
    assert reasons(packed(name), PackTokens) == []
    assert count(packed(name), PackTokens) == CONTEXTS.get(name, LAYERS)


@pytest.mark.parametrize("name", NETWORKS)
def test_real_tokens_are_those_of_the_graph_that_is_packed(name: str) -> None:
    assert packing_difference(network(name), folded(name), packed(name)) <= EXACT


@pytest.mark.parametrize("name", NETWORKS)
def test_real_tokens_are_those_of_eager_torch(name: str) -> None:
    assert 0 < eager_difference(network(name), packed(name)) <= FP32 * 10


@pytest.mark.parametrize("name", ["text-generation", "text2text-generation"])
def test_a_head_that_reads_the_last_place_is_refused(name: str) -> None:
    graph = applied(trace_task(name, variant="full").graph, *FOLDS, PackTokens)
    (reason,) = reasons(graph, PackTokens)

    assert count(graph, PackTokens) == 0
    assert reason.endswith("reads rows that may be padding")


def test_steps_over_a_cache_are_refused() -> None:
    graph = applied(trace_task("text-generation", variant="with-past").graph, *FOLDS, PackTokens)

    assert reasons(graph, PackTokens) == ["a step of a decoder has no padding: all of its tokens are new"]


def test_lengths_up_to_the_limit() -> None:
    one, other = runner(folded("question-answering")), runner(packed("question-answering"))
    rng = np.random.default_rng(0)
    for length in range(1, USABLE_LENGTH + 1):
        keep = random_mask("right", 2, length, rng)
        feeds = feeds_of(keep, seed=length)
        expected, found = one(feeds), other(feeds)
        for name, array in expected.items():
            assert np.abs(array - found[name])[keep == 1].max() <= EXACT, (name, length)


def feeds_of(keep: np.ndarray, *, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    ids = np.where(keep == 1, rng.integers(PAD + 1, 61, keep.shape), PAD)
    return {"input_ids": ids, "attention_mask": keep, "token_type_ids": rng.integers(0, 3, keep.shape)}


# -- behind other passes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["token-classification", "fill-mask", "text-classification", "internals"])
def test_sums_fused_with_norms_are_packed(name: str) -> None:
    fused = applied(folded(name), FuseSkipLayerNorm)
    graph = applied(fused, PackTokens)

    assert count(fused, FuseSkipLayerNorm) > LAYERS
    assert count(graph, PackTokens) == CONTEXTS.get(name, LAYERS)
    assert packing_difference(network(name), fused, graph) <= EXACT


@pytest.mark.parametrize("recipe", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["token-classification", "text-classification", "fill-mask"])
def test_lower_precision_is_packed(name: str, recipe: str) -> None:
    lowered = copied(folded(name))
    batches = [case.feeds for case in network(name).stress_cases()]
    apply_recipe(
        lowered, RECIPES[recipe], GraphTraits(layers=LAYERS), measure=lambda model: measure_ranges(model, batches)
    )
    graph = applied(lowered, PackTokens)

    assert count(graph, PackTokens) == CONTEXTS.get(name, LAYERS)
    assert packing_difference(network(name), rounding_copy(lowered), rounding_copy(graph)) <= EXACT


# -- int8 ------------------------------------------------------------------------------------------------------------


def quantized(graph: ir.Model, folder: Path) -> ir.Model:
    """Return the graph in int8, by onnxruntime's own tool, which measures ranges in each run."""
    source, target = folder / "fp32.onnx", folder / "int8.onnx"
    ir.save(graph, source)
    quantize_dynamic(source, target, op_types_to_quantize=["MatMul"], extra_options={"DefaultTensorType": 1})
    return ir.load(target)


def inferred(graph: ir.Model) -> ir.Model:
    """Return the graph with shapes, which the tool leaves out."""
    common.ShapeInferencePass()(graph)
    return graph


@pytest.mark.parametrize("order", ["packed, then quantized", "quantized, then packed"])
@pytest.mark.parametrize("name", ["token-classification", "question-answering"])
def test_in_int8_a_padded_text_is_what_it_is_alone(name: str, order: str, tmp_path: Path) -> None:
    """Ranges are measured over a whole batch; in a packed graph, over its real tokens only.

    So a packed batch is compared with the text alone, without padding, and not with the same batch unpacked.
    """
    plain = inferred(quantized(folded(name), tmp_path))
    graph = quantized(packed(name), tmp_path) if order.startswith("packed") else applied(plain, PackTokens)
    alone, padded = runner(plain), runner(graph)

    assert [node.op_type for node in graph.graph].count("MatMulInteger") >= 6 * LAYERS
    if order.startswith("quantized"):
        assert count(graph, PackTokens) == LAYERS
    for real in (1, 3, 8):
        text = feeds_of(np.ones((1, real), dtype=np.int64))
        keep = np.array([[1] * real + [0] * 9])
        filled = {key: np.pad(array, ((0, 0), (0, 9)), constant_values=PAD) for key, array in text.items()}
        found, expected = padded(filled | {"attention_mask": keep}), alone(text)
        for key, array in expected.items():
            assert np.abs(found[key][:, :real] - array).max() <= EXACT, (key, real)


class Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """The batches that static ranges are measured on."""

    def __init__(self, batches: Sequence[Arrays]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> Arrays | None:
        """Return the next batch, or None at the end."""
        return next(self.batches, None)


@pytest.mark.parametrize("name", ["token-classification", "text-classification"])
def test_static_int8_is_packed(name: str, tmp_path: Path) -> None:
    source, target = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    ir.save(folded(name), source)
    batches = [case.feeds for case in network(name).stress_cases()][:8]
    quantize_static(
        source, target, Batches(batches), quant_format=QuantFormat.QDQ, op_types_to_quantize=["MatMul", "Add"]
    )
    plain = inferred(ir.load(target))
    graph = applied(plain, PackTokens)

    assert [node.op_type for node in graph.graph].count("QuantizeLinear") > 6 * LAYERS
    assert count(graph, PackTokens) == CONTEXTS.get(name, LAYERS)
    assert packing_difference(network(name), plain, graph) <= EXACT


# -- networks that nobody thought of ---------------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a task of an encoder, and fields of a config."""
    heads = draw(st.sampled_from([1, 2, 3]))
    return {
        "name": draw(st.sampled_from([task.name for task in TASKS.values() if task.postprocess is not None])),
        "outputs": draw(st.sampled_from([(), ("hidden_states",), ("attentions",)])),
        "opset": draw(st.integers(18, 23)),
        "seed": draw(st.integers(0, 99)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.sampled_from([4, 6, 16])),
        "hidden_act": draw(st.sampled_from(["gelu", "relu", "silu", "gelu_new", "gelu_pytorch_tanh"])),
        "position_embedding_type": draw(st.sampled_from(["absolute", "relative_key"])),
        "type_vocab_size": draw(st.integers(1, 3)),
        "pad_token_id": draw(st.sampled_from([0, 1, 3])),
    }


def check(fields: dict[str, Any]) -> None:
    traced = trace_task(**fields)
    rows = applied(traced.graph, SelectRows)
    graph = applied(rows, PackTokens)
    alone = fields["name"] in {"text-classification", "multiple-choice"} and "hidden_states" not in fields["outputs"]

    assert reasons(graph, PackTokens) == []
    assert count(graph, PackTokens) == fields["num_hidden_layers"] - alone
    assert packing_difference(traced, rows, graph) <= EXACT


SECONDS_EACH = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@pytest.mark.full
@settings(SECONDS_EACH, max_examples=4, derandomize=True)
@given(networks())
def test_a_few_networks(fields: dict[str, Any]) -> None:
    check(fields)


@pytest.mark.fuzz
@settings(SECONDS_EACH, max_examples=10)
@given(networks())
def test_many_networks(fields: dict[str, Any]) -> None:
    check(fields)
