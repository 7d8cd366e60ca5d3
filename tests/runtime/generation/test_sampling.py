"""Sampling draws by the probabilities, is repeatable with a seed, and gives the same alone and in a batch."""

import numpy as np
import pytest

from rpln_runtime import Generator, generator
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.generation.sampling import choose, draw
from rpln_runtime.generation.sequences import GrowingSequence
from tests.runtime.decoders import DecoderBundle

PROMPTS = [[0, 41, 52], [0, 63], [0, 74, 85, 96, 107, 118]]
# The 99.9% quantile of chi-square by degrees of freedom: the true distribution is below it for 999 seeds of 1,000.
CHI_SQUARE = {4: 18.47, 2: 13.82}


@pytest.fixture(scope="module")
def continue_(causal_lm: DecoderBundle) -> Generator:
    # The distribution is flat enough for draws to differ, and has so few tokens that positions matter.
    return generator(causal_lm.folder, max_new_tokens=12, do_sample=True, temperature=4.0)


def row(seed: int) -> GrowingSequence:
    return GrowingSequence(prompt=0, sequence=0, context=[0], random=np.random.default_rng(seed))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 3])
def test_tokens_come_as_often_as_their_probability_says(temperature: float, top_k: int) -> None:
    logits = np.array([[1.0, 0.2, -0.5, 1.4, 0.0]], np.float32)
    options = GenerationOptions(do_sample=True, temperature=temperature, top_k=top_k)
    draws = 20_000
    line = row(seed=11)
    counts = np.bincount([choose(logits, [line], options)[0] for _ in range(draws)], minlength=5)
    expected = np.exp(logits[0].astype(np.float64) / temperature)
    if top_k:
        expected[np.argsort(expected)[: 5 - top_k]] = 0
    expected *= draws / expected.sum()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    deviation = ((counts[possible] - expected[possible]) ** 2 / expected[possible]).sum()
    assert deviation < CHI_SQUARE[possible.sum() - 1]


def test_what_is_left_out_is_never_drawn() -> None:
    logits = np.array([-np.inf, 7.0, -np.inf, 7.0, -np.inf], np.float32)
    edge = np.nextafter(1.0, 0.0)
    assert [draw(logits, number) for number in (0.0, 0.25, 0.5, 0.75, edge)] == [1, 1, 3, 3, 3]
    assert draw(np.zeros(3, np.float32), edge) == 2
    # A token this unlikely has no share at all.
    assert draw(np.array([0.0, -2000.0], np.float32), edge) == 0


def test_a_seed_repeats_and_another_does_not(continue_: Generator) -> None:
    first = continue_.tokens(PROMPTS, seed=3)
    assert continue_.tokens(PROMPTS, seed=3) == first
    assert continue_.tokens(PROMPTS, seed=4) != first
    unseeded = [continue_.tokens(PROMPTS) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_equal_prompts_differ_without_a_seed_alone(continue_: Generator) -> None:
    one, other = continue_.tokens([PROMPTS[0]] * 2)
    assert one != other
    one, other = continue_.tokens([PROMPTS[0]] * 2, seed=5)
    assert one == other


def test_a_seeded_prompt_draws_the_same_in_any_batch(continue_: Generator, causal_lm: DecoderBundle) -> None:
    together = continue_.tokens(PROMPTS, seed=7, num_return_sequences=2)
    for prompt, sequences in zip(PROMPTS, together, strict=True):
        assert continue_.tokens([prompt], seed=7, num_return_sequences=2) == [sequences]
        assert sequences[0] != sequences[1]
        # The first sequence is the one that a call for a single sequence gives.
        assert continue_.tokens([prompt], seed=7) == [sequences[:1]]
    small = generator(causal_lm.folder, max_new_tokens=12, do_sample=True, temperature=4.0, batch_size=1)
    assert small.tokens(PROMPTS, seed=7, num_return_sequences=2) == together


def test_the_likeliest_alone_is_greedy_search(continue_: Generator) -> None:
    greedy = continue_.tokens(PROMPTS, do_sample=False, temperature=1.0)
    assert continue_.tokens(PROMPTS, top_k=1) == greedy
    assert continue_.tokens(PROMPTS, min_p=1.0) == greedy
    assert continue_.tokens(PROMPTS, top_p=1e-6) == greedy
    assert continue_.tokens(PROMPTS, temperature=1e-3) == greedy
