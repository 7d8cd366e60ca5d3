"""Streams give pieces that join to the whole answer, each as soon as its characters are complete."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpln_runtime import Generator, InputError, generator
from rpln_runtime.generation.steps import CachedSteps
from rpln_runtime.generation.streaming import TextStream
from rpln_runtime.tokenization import Tokenizer
from tests.runtime.decoders import DecoderBundle

TEXTS = ["Ada Lovelace", "The capital of France is", ""]


@pytest.fixture(scope="module")
def continue_(causal_lm: DecoderBundle) -> Generator:
    return generator(causal_lm.folder, max_new_tokens=30, return_full_text=False, stop_token_ids=())


@pytest.fixture(scope="module")
def tokenizer(causal_lm: DecoderBundle) -> Tokenizer:
    return Tokenizer.from_bundle(causal_lm.folder, causal_lm.manifest)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 2, "temperature": 3.0}], ids=str)
def test_a_stream_joins_to_the_answer(continue_: Generator, text: str, options: dict[str, Any]) -> None:
    pieces = list(continue_.stream(text, **options))
    assert len(pieces) > 5
    assert all(pieces)
    assert "".join(pieces) == continue_(text, **options)[0]["generated_text"]


def test_a_stream_runs_as_it_is_read(continue_: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    step = CachedSteps.step

    def counted(self: CachedSteps, tokens: np.ndarray) -> np.ndarray:
        steps.append(tokens)
        return step(self, tokens)

    monkeypatch.setattr(CachedSteps, "step", counted)
    stream = continue_.stream(TEXTS[0], max_new_tokens=30, stop_token_ids=())
    assert steps == []
    next(stream)
    few = len(steps)
    assert few < 5
    list(stream)
    assert len(steps) == 29


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_texts_that_are_done_are_told_after_each_batch(causal_lm: DecoderBundle, options: dict[str, Any]) -> None:
    told: list[tuple[int, int]] = []
    one_by_one = generator(causal_lm.folder, max_new_tokens=2, batch_size=1)
    one_by_one(TEXTS, on_rows=lambda done, total: told.append((done, total)), **options)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_callback_gets_the_pieces_of_every_sequence(continue_: Generator) -> None:
    pieces: dict[tuple[int, int], str] = {}

    def collect(prompt: int, sequence: int, piece: str) -> None:
        pieces[prompt, sequence] = pieces.get((prompt, sequence), "") + piece

    options: dict[str, Any] = {"do_sample": True, "seed": 2, "num_return_sequences": 2, "temperature": 3.0}
    answers = continue_(TEXTS, callback=collect, **options)
    expected = {
        (prompt, sequence): answer["generated_text"]
        for prompt, sequences in enumerate(answers)
        for sequence, answer in enumerate(sequences)
    }
    assert pieces == expected
    assert len(expected) == 6


def test_a_callback_gets_tokens_as_they_are_chosen(continue_: Generator) -> None:
    seen: list[tuple[int, int, int]] = []
    (sequences,) = continue_.tokens([[0, 50, 60]], callback=lambda *token: seen.append(token))
    assert seen == [(0, 0, token) for token in sequences[0].tokens]


@given(tokens=st.lists(st.integers(0, 399), max_size=40))
def test_any_tokens_join_to_their_text(tokenizer: Tokenizer, tokens: list[int]) -> None:
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokens] + [stream.close()]
    assert "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True)


def test_a_character_comes_when_its_last_token_does(tokenizer: Tokenizer) -> None:
    text = "née 東京 ☃ 😀!"
    tokens = tokenizer.encode(text).ids.tolist()[1:-1]
    stream = TextStream(tokenizer)
    shown = ""
    for count, token in enumerate(tokens, start=1):
        shown += stream.push(token)
        # Only an incomplete character is held back.
        assert shown == tokenizer.decode(tokens[:count]).rstrip("\N{REPLACEMENT CHARACTER}")
    assert shown == text
    assert any(
        len(tokenizer.decode([token]).encode()) > 1 and "\N{REPLACEMENT CHARACTER}" in tokenizer.decode([token])
        for token in tokens
    )


def test_a_replacement_character_of_the_text_is_no_broken_one(tokenizer: Tokenizer) -> None:
    text = "a\N{REPLACEMENT CHARACTER}b"
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokenizer.encode(text).ids.tolist()[1:-1]]
    assert "".join(pieces) + stream.close() == text


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
def test_a_stream_is_of_one_sequence(continue_: Generator, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="num_beams=1 and num_return_sequences=1"):
        continue_.stream("Ada", **options)
    if "num_beams" in options:
        with pytest.raises(InputError, match="num_beams=1 with a callback"):
            continue_("Ada", callback=lambda *_: None, **options)


def test_a_callback_that_fails_ends_the_generation(continue_: Generator) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        continue_(TEXTS, callback=fail)
    assert len(continue_.tokens([[0]])[0]) == 1
