"""OpenVINO writes the tokens of ONNX Runtime, whatever graphs and options a decoder has."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import Generator, ProviderError, generator
from rpln_runtime.engines import openvino_state
from rpln_runtime.engines.openvino_state import keep_cache
from rpln_runtime.generation.positions import FORWARD, positions_from_scheme
from rpln_runtime.generation.steps import GenerationSteps
from tests.runtime.decoders import LAYERS, DecoderBundle, assert_same_sequences, copy_decoder
from tests.runtime.generation.test_variants import OPTIONS, PROMPTS, WITH_PADDING, encoder_states

pytest.importorskip("openvino", reason="OpenVINO is not installed (extra [openvino])")

CACHED = [("with-past",), ("prefill", "decode")]
CASES = [(variants, options) for variants in CACHED for options in OPTIONS]
# The graph without a cache counts positions by itself, in one way.
CASES += [(("full",), options) for options in OPTIONS if "positions" not in options]


def opened(folder: Path) -> tuple[Generator, Generator]:
    """Return the generator of a bundle on ONNX Runtime, and on OpenVINO."""
    one, other = (generator(folder, provider=name, threads=1, max_new_tokens=20) for name in ("cpu", "openvino"))
    return one, other


@pytest.mark.parametrize(("variants", "options"), CASES, ids=str)
def test_tokens_are_those_of_onnx_runtime(
    every_variant: DecoderBundle, tmp_path: Path, variants: tuple[str, ...], options: dict[str, Any]
) -> None:
    cpu, other = opened(copy_decoder(every_variant, tmp_path, *variants).folder)
    for prompts in (PROMPTS, [WITH_PADDING]):
        assert_same_sequences(other.tokens(prompts, **options), cpu.tokens(prompts, **options))


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_a_cache_in_fp16_and_an_encoder_change_nothing(
    other_lm: DecoderBundle, encoder_decoder: DecoderBundle, options: dict[str, Any]
) -> None:
    for bundle in (other_lm, encoder_decoder):
        cpu, other = opened(bundle.folder)
        assert_same_sequences(other.tokens(PROMPTS, **options), cpu.tokens(PROMPTS, **options))


def test_states_of_another_encoder_are_taken(encoder_decoder: DecoderBundle, tmp_path: Path) -> None:
    cpu, other = opened(copy_decoder(encoder_decoder, tmp_path, "with-past", "cross").folder)
    states = encoder_states(encoder_decoder, PROMPTS)
    assert_same_sequences(other.tokens(states), cpu.tokens(states))


def test_threads_share_a_generator(causal_lm: DecoderBundle) -> None:
    cpu, other = opened(causal_lm.folder)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: other.tokens([prompt])[0], PROMPTS * 4))
    assert_same_sequences(found, cpu.tokens(PROMPTS) * 4)


# -- the cache as OpenVINO's state -------------------------------------------------------------------------------------


def fused_attentions(generate: Generator) -> int:
    """Return how many attentions OpenVINO computes with a cache of its own."""
    keeping: Any = generate._decoder.keeping
    nodes = keeping.args[0].get_runtime_model().get_ops()
    return sum(node.get_rt_info()["layerType"].astype(str) == "ScaledDotProductAttention" for node in nodes)


def steps_of(generate: Generator, prompts: list[list[int]]) -> tuple[GenerationSteps, np.ndarray]:
    """Return the steps of a generation and the prompts, which have equal lengths."""
    ids = np.array(prompts)
    assert generate.manifest.generation is not None
    positions = positions_from_scheme(FORWARD, generate.manifest.generation)
    return generate._decoder.begin(np.ones_like(ids), positions=positions, cross=None), ids


def decoder_of_last_queries(layers: int) -> Any:
    """Return a model of attentions with a cache, of which the last has the queries of the last token alone."""
    from openvino import Model, opset13

    hidden = opset13.parameter([-1, 2, -1, 4], np.float32, name="hidden")
    inputs, results = [hidden], []
    for layer in range(layers):
        present = []
        for part in "kv":
            past = opset13.parameter([-1, 2, -1, 4], np.float32, name=f"past.{layer}.{part}")
            past.output(0).get_tensor().set_names({f"past.{layer}.{part}"})
            inputs.append(past)
            present.append(opset13.concat([past, hidden], axis=-2))
        keys, values = present
        last = opset13.slice(hidden, np.array([-1]), np.array([9999]), np.array([1]), np.array([2]))
        queries = last if layer == layers - 1 else hidden
        scores = opset13.matmul(
            queries, opset13.transpose(keys, np.array([0, 1, 3, 2])), transpose_a=False, transpose_b=False
        )
        masked = opset13.add(opset13.multiply(scores, np.float32(0.5)), np.float32(0))
        context = opset13.matmul(opset13.softmax(masked, -1), values, transpose_a=False, transpose_b=False)
        for node, name in ((keys, f"new.{layer}.k"), (values, f"new.{layer}.v"), (context, f"context.{layer}")):
            node.output(0).get_tensor().set_names({name})
            results.append(opset13.result(node))
    return Model(results, inputs)


def test_openvino_keeps_the_cache_and_fuses_every_attention(causal_lm: DecoderBundle) -> None:
    cpu, other = opened(causal_lm.folder)
    assert cpu._decoder.keeping is None
    assert fused_attentions(other) == LAYERS


def test_an_attention_of_the_last_token_alone_is_not_fused() -> None:
    """OpenVINO's attention with a state takes as many queries as there are new keys."""
    layers = 3
    model = decoder_of_last_queries(layers)
    kept = keep_cache(
        model, {f"past.{layer}.{part}": f"new.{layer}.{part}" for layer in range(layers) for part in "kv"}
    )
    assert sum(node.get_type_name() == "ScaledDotProductAttention" for node in kept.get_ops()) == layers - 1


@pytest.mark.parametrize(
    "rows", [[1, 0, 2], [2, 2, 0], [0], [2, 0], [0, 0, 1, 1, 2, 2]], ids=["exchanged", "twice", "one", "fewer", "more"]
)
def test_rows_are_selected_as_with_memory(causal_lm: DecoderBundle, rows: list[int]) -> None:
    prompts = [[0, 41, 7], [0, 63, 9], [0, 5, 5]]
    logits = []
    for generate in opened(causal_lm.folder):
        steps, ids = steps_of(generate, prompts)
        steps.start(ids)
        steps.step(np.array([11, 12, 13]))
        steps.select(np.array(rows))
        steps.select(np.arange(len(rows))[::-1])
        tokens = np.arange(20, 20 + len(rows))
        logits.append(np.stack([steps.step(tokens).copy(), steps.step(tokens + 1).copy()]))
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-4, atol=1e-4)


def test_a_cache_in_8_bits_rounds_and_is_for_providers_that_have_it(
    causal_lm: DecoderBundle, every_variant: DecoderBundle, other_lm: DecoderBundle, tmp_path: Path
) -> None:
    exact, rounded = (
        generator(causal_lm.folder, provider="openvino", threads=1, int8_cache=int8, max_new_tokens=20)
        for int8 in (False, True)
    )
    logits = []
    for generate in (exact, rounded, copy.copy(rounded)):
        steps, ids = steps_of(generate, [[0, 41, 7], [0, 63, 9]])
        steps.start(ids)
        logits.append(steps.step(np.array([11, 12])).copy())
    assert 0 < np.abs(logits[1] - logits[0]).max() < 0.01 * np.ptp(logits[0])
    np.testing.assert_array_equal(logits[2], logits[1])

    two_graphs = copy_decoder(every_variant, tmp_path, "prefill", "decode").folder
    for folder, provider in ((causal_lm.folder, "cpu"), (two_graphs, "openvino"), (other_lm.folder, "openvino")):
        with pytest.raises(ProviderError, match=f"provider '{provider}' has no cache in 8 bits for"):
            generator(folder, provider=provider, int8_cache=True)


def test_a_cache_in_8_bits_is_refused_where_no_attention_is_fused(
    causal_lm: DecoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_state, "_source", lambda _: object())
    cpu, other = opened(causal_lm.folder)
    assert fused_attentions(other) == 0
    assert_same_sequences(other.tokens(PROMPTS), cpu.tokens(PROMPTS))
    with pytest.raises(ProviderError, match="this graph has none that it can"):
        generator(causal_lm.folder, provider="openvino", int8_cache=True)
