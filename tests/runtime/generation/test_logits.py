"""Processors of logits give what those of transformers give, on random logits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rpln_runtime import GenerationOptions
from rpln_runtime.generation import logits as ours
from rpln_runtime.generation.processors import Earlier, LogitsProcessor

ROWS, VOCAB = 5, 300
HF: Any = transformers
WARPERS: list[tuple[str, Any, Callable[[Any], Any], list[float]]] = [
    ("temperature", ours.temperature, lambda value: HF.TemperatureLogitsWarper(float(value)), [0.3, 1.7]),
    ("top_k", ours.top_k, HF.TopKLogitsWarper, [1, 7, VOCAB, VOCAB + 10]),
    ("top_p", ours.top_p, HF.TopPLogitsWarper, [1e-6, 0.5, 0.9, 1.0]),
    ("min_p", ours.min_p, HF.MinPLogitsWarper, [1e-4, 0.05, 1.0]),
]


def random_logits(seed: int, *, scale: float = 4.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (ROWS, VOCAB)).astype(np.float32)


def random_tokens(seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, 12).tolist() for _ in range(ROWS)]


def processed(scores: np.ndarray, tokens: list[list[int]], options: GenerationOptions) -> np.ndarray:
    process = LogitsProcessor(options, stops=(), limit=100, vocab_size=VOCAB)
    return process(scores, [Earlier(row[:3], row[3:]) for row in tokens])


def assert_same_logits(found: np.ndarray, expected: torch.Tensor) -> None:
    assert found.dtype == np.float32
    assert np.array_equal(np.isinf(found), torch.isinf(expected).numpy())
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "function", "warper", "value"),
    [(name, function, warper, value) for name, function, warper, values in WARPERS for value in values],
    ids=lambda value: str(value) if isinstance(value, str | float | int) else "",
)
def test_each_equals_transformers(name: str, function: Any, warper: Any, value: float) -> None:
    for seed in range(20):
        scores = random_logits(seed)
        kept = scores.copy()
        assert_same_logits(function(scores, value), warper(value)(None, torch.from_numpy(scores.copy())))
        assert np.array_equal(scores, kept)


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_the_repetition_penalty_equals_transformers(penalty: float) -> None:
    for seed in range(20):
        scores, tokens = random_logits(seed), random_tokens(seed)
        tokens[0][:4] = [tokens[0][5]] * 4  # a token that came often is penalized once
        expected = HF.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(tokens), torch.from_numpy(scores.copy()))
        assert_same_logits(processed(scores, tokens, GenerationOptions(repetition_penalty=penalty)), expected)


def test_all_in_the_order_of_transformers() -> None:
    options = GenerationOptions(
        do_sample=True, temperature=1.6, top_k=60, top_p=0.8, min_p=0.02, repetition_penalty=1.4
    )
    for seed in range(20):
        scores, tokens = random_logits(seed, scale=3.0), random_tokens(seed)
        expected = torch.from_numpy(scores.copy())
        for warper in (
            HF.RepetitionPenaltyLogitsProcessor(1.4),
            HF.TemperatureLogitsWarper(1.6),
            HF.TopKLogitsWarper(60),
            HF.TopPLogitsWarper(0.8),
            HF.MinPLogitsWarper(0.02),
        ):
            expected = warper(torch.tensor(tokens), expected)
        found = ours.warp(processed(scores, tokens, options), options)
        assert_same_logits(found, expected)
        assert 1 < np.isfinite(found).sum(axis=1).max() < 60


def test_one_token_is_enough_to_complete_a_bad_word_of_two() -> None:
    # As in transformers 5.23; 4.57 asks for two tokens before it.
    process = LogitsProcessor(GenerationOptions(bad_words_ids=[[3, 5]]), stops=(), limit=100, vocab_size=VOCAB)
    found = process(np.zeros((2, VOCAB), np.float32), [Earlier([3], []), Earlier([4], [])])
    assert np.argwhere(np.isinf(found)).tolist() == [[0, 5]]


def test_what_is_off_changes_nothing() -> None:
    options, scores = GenerationOptions(do_sample=True, top_k=0), random_logits(0)
    assert np.array_equal(ours.warp(processed(scores, random_tokens(0), options), options), scores)


def test_tokens_as_likely_as_the_last_one_kept_stay() -> None:
    scores = np.array([[2.0, 1.0, 2.0, 0.0, 2.0]], np.float32)
    for found in (ours.top_k(scores, 2), ours.top_p(scores, 0.5)):
        assert np.isfinite(found).tolist() == [[True, False, True, False, True]]


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1.0))
def test_top_p_keeps_the_mass_and_no_more(seed: int, mass: float) -> None:
    scores = random_logits(seed)
    probabilities = ours.softmax(scores.astype(np.float64))
    for row, kept in zip(probabilities, np.isfinite(ours.top_p(scores, mass)), strict=True):
        assert row[kept].sum() >= mass - 1e-5
        assert row[kept].sum() - row[kept].min() <= mass + 1e-5
        assert kept.all() or row[kept].min() >= row[~kept].max()


def test_log_softmax_equals_torch() -> None:
    scores = random_logits(3, scale=30.0)
    expected = torch.log_softmax(torch.from_numpy(scores), dim=-1).numpy()
    np.testing.assert_allclose(ours.log_softmax(scores), expected, atol=1e-5, rtol=1e-6)
