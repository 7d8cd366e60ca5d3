"""Tokens are those of transformers' `generate`, with the same fp32 weights."""

from typing import Any

import numpy as np
import pytest

from rpln_runtime import Generated, Generator, generator
from tests.runtime.bundles import USABLE_LENGTH
from tests.runtime.decoders import EOS, DecoderBundle, assert_same_sequences, reference

NEW = 24
LENGTHS = (1, 4, 9, 2, 7)

BEAMS = [
    {"num_beams": 2},
    {"num_beams": 3, "num_return_sequences": 3},
    {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 2.0},
    {"num_beams": 4, "num_return_sequences": 4, "length_penalty": -1.0},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0, "early_stopping": "never"},
    {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 1.5, "early_stopping": "never"},
    {"num_beams": 4, "num_return_sequences": 2, "early_stopping": True},
    {"num_beams": 5, "num_return_sequences": 5, "early_stopping": True, "repetition_penalty": 1.3},
]


def prompts_of(vocab_size: int, *, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, vocab_size, length).tolist() for length in LENGTHS]


@pytest.fixture(scope="module")
def continue_(causal_lm: DecoderBundle) -> Generator:
    return generator(causal_lm.folder, max_new_tokens=NEW)


@pytest.fixture(scope="module")
def answer(encoder_decoder: DecoderBundle) -> Generator:
    return generator(encoder_decoder.folder, max_new_tokens=NEW)


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 0.9}, *BEAMS], ids=str)
def test_prompts_alone(causal_lm: DecoderBundle, continue_: Generator, options: dict[str, Any]) -> None:
    prompts = prompts_of(causal_lm.manifest.vocab_size)
    theirs = [reference(causal_lm, [prompt], max_new_tokens=NEW, **options)[0] for prompt in prompts]
    assert_same_sequences(continue_.tokens(prompts, **options), theirs)
    assert_varied(theirs)


@pytest.mark.parametrize("options", [{}, *BEAMS], ids=str)
def test_padded_batches_with_the_positions_of_generate(
    causal_lm: DecoderBundle, continue_: Generator, options: dict[str, Any]
) -> None:
    prompts = prompts_of(causal_lm.manifest.vocab_size)
    positions = "transformers-generate"
    theirs = reference(causal_lm, prompts, max_new_tokens=NEW, positions=positions, **options)
    assert_same_sequences(continue_.tokens(prompts, positions=positions, **options), theirs)
    assert theirs != reference(causal_lm, prompts, max_new_tokens=NEW, **options)
    assert_varied(theirs)


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 0.9}, *BEAMS], ids=str)
def test_encoder_decoders(encoder_decoder: DecoderBundle, answer: Generator, options: dict[str, Any]) -> None:
    texts = prompts_of(encoder_decoder.manifest.vocab_size, seed=1)
    theirs = reference(encoder_decoder, texts, max_new_tokens=NEW, **options)
    assert_same_sequences(answer.tokens(texts, **options), theirs)
    # `generate` passes no position_ids to these models, so both ways to count agree.
    assert_same_sequences(answer.tokens(texts, positions="transformers-generate", **options), theirs)
    assert_varied(theirs)


def test_up_to_the_last_position(causal_lm: DecoderBundle, continue_: Generator) -> None:
    prompt = prompts_of(causal_lm.manifest.vocab_size)[1]
    room = USABLE_LENGTH - len(prompt) + 1
    (theirs,) = reference(causal_lm, [prompt], max_new_tokens=room, eos_token_id=None)
    assert len(theirs[0].tokens) == room
    assert_same_sequences(continue_.tokens([prompt], max_new_tokens=room, stop_token_ids=()), [theirs])


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_other_stop_tokens(causal_lm: DecoderBundle, continue_: Generator, options: dict[str, Any]) -> None:
    prompts = prompts_of(causal_lm.manifest.vocab_size)
    usual = continue_.tokens(prompts, **options)
    stops = sorted({row[0].tokens[5] for row in usual})
    theirs = [reference(causal_lm, [one], max_new_tokens=NEW, eos_token_id=stops, **options)[0] for one in prompts]
    assert_same_sequences(continue_.tokens(prompts, stop_token_ids=stops, **options), theirs)
    assert all(len(row[0].tokens) <= 6 for row in theirs) or options


def test_beams_go_on_where_most_tokens_end_a_text(causal_lm: DecoderBundle, continue_: Generator) -> None:
    # Three quarters of the vocabulary are stop tokens, so most of a beam's best continuations have ended.
    stops = list(range(5, 300))
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 3.0}
    prompts = prompts_of(causal_lm.manifest.vocab_size)
    theirs = [reference(causal_lm, [one], max_new_tokens=NEW, eos_token_id=stops, **options)[0] for one in prompts]
    assert_same_sequences(continue_.tokens(prompts, stop_token_ids=stops, **options), theirs)
    assert max(len(one.tokens) for row in theirs for one in row) > 3


def assert_varied(sequences: list[list[Generated]]) -> None:
    """Check that some sequences of the comparison ended, and some were cut."""
    ended = [one.tokens[-1] == EOS for row in sequences for one in row]
    assert any(ended)
    assert not all(ended)
