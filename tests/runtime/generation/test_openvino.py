"""OpenVINO writes the tokens of ONNX Runtime, whatever graphs and options a decoder has."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime import Generator, generator
from tests.runtime.decoders import DecoderBundle, assert_same_sequences, copy_decoder
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
