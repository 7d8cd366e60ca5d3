"""Every graph gives the same tokens in every batch."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rpln_runtime import EncoderStates, Generator, generator
from tests.runtime.decoders import DecoderBundle, assert_same_sequences, copy_decoder, reference

PROMPTS = [[0, 41], [0, 63, 7, 9, 11, 13, 15, 210], [300], [0, 74, 85, 96], [0, 5, 5, 5, 5]]
WITH_PADDING = [0, 41, 1, 63, 1, 1, 7]
"""A prompt with a padding token inside, which is real and has no position of its own."""
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_beams": 3, "num_return_sequences": 2},
    {"do_sample": True, "seed": 1, "num_return_sequences": 3, "temperature": 2.0},
    {"positions": "transformers-generate"},
]


@pytest.fixture(scope="module")
def continue_(causal_lm: DecoderBundle) -> Generator:
    return generator(causal_lm.folder, max_new_tokens=20)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
@pytest.mark.parametrize("variants", [("prefill", "decode"), ("full",)], ids=str)
def test_every_variant_gives_the_tokens_of_with_past(
    every_variant: DecoderBundle,
    continue_: Generator,
    tmp_path: Path,
    variants: tuple[str, ...],
    options: dict[str, Any],
) -> None:
    bundle = copy_decoder(every_variant, tmp_path, *variants)
    prompts = [*PROMPTS, WITH_PADDING]
    found = generator(bundle.folder, max_new_tokens=20).tokens(prompts, **options)
    assert_same_sequences(found, continue_.tokens(prompts, **options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_prompts_of_unequal_lengths_get_what_each_gets_alone(continue_: Generator, options: dict[str, Any]) -> None:
    alone = [continue_.tokens([prompt], **options)[0] for prompt in PROMPTS]
    assert_same_sequences(continue_.tokens(PROMPTS, **options), alone)


@pytest.mark.parametrize(
    ("variants", "ran"),
    [
        (("full", "decode", "prefill", "with-past"), "model.onnx model.onnx"),
        (("decode", "full", "prefill"), "prefill.onnx decode.onnx"),
        (("prefill", "full"), "full.onnx full.onnx"),
    ],
)
def test_the_best_graphs_run(every_variant: DecoderBundle, tmp_path: Path, variants: tuple[str, ...], ran: str) -> None:
    decoder = generator(copy_decoder(every_variant, tmp_path, *variants).folder)._decoder
    assert f"{decoder.prompt.graph.path} {decoder.step.graph.path}" == ran


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_batch_size_changes_nothing(causal_lm: DecoderBundle, continue_: Generator, batch_size: int) -> None:
    expected = continue_.tokens(PROMPTS)
    assert_same_sequences(
        generator(causal_lm.folder, max_new_tokens=20, batch_size=batch_size).tokens(PROMPTS), expected
    )


def test_prompts_near_the_limit_get_what_each_gets_alone(continue_: Generator) -> None:
    # Without max_new_tokens each prompt gets 20 tokens, or as many as there is room for, as if it were alone.
    prompts = [[0, 41], [0] + [7] * 55, [0] + [9] * 63, [0, 63, 7]]
    free: dict[str, Any] = {"max_new_tokens": None, "stop_token_ids": ()}
    alone = [continue_.tokens([prompt], **free)[0] for prompt in prompts]
    assert [len(row[0].tokens) for row in alone] == [20, 9, 1, 20]
    assert_same_sequences(continue_.tokens(prompts, **free), alone)


def test_an_fp16_cache_all_logits_and_token_types(other_lm: DecoderBundle, tmp_path: Path) -> None:
    cached = generator(copy_decoder(other_lm, tmp_path, "with-past").folder, max_new_tokens=12)
    full = generator(copy_decoder(other_lm, tmp_path, "full").folder, max_new_tokens=12)
    for options in OPTIONS[:2]:
        theirs = [reference(other_lm, [prompt], max_new_tokens=12, **options)[0] for prompt in PROMPTS]
        assert_same_sequences(full.tokens(PROMPTS, **options), theirs)
        tokens = [[one.tokens for one in row] for row in theirs]
        assert [[one.tokens for one in row] for row in cached.tokens(PROMPTS, **options)] == tokens
    theirs = reference(other_lm, PROMPTS, max_new_tokens=12, positions="transformers-generate")
    for either in (cached, full):
        assert_same_sequences(either.tokens(PROMPTS, positions="transformers-generate"), theirs)


@pytest.mark.parametrize("options", [{"stop_token_ids": ()}, *OPTIONS[1:3]], ids=str)
def test_an_encoder_in_every_form(encoder_decoder: DecoderBundle, tmp_path: Path, options: dict[str, Any]) -> None:
    whole = generator(copy_decoder(encoder_decoder, tmp_path, "with-past", "encoder").folder)
    full = generator(copy_decoder(encoder_decoder, tmp_path, "full", "encoder").folder)
    states = generator(copy_decoder(encoder_decoder, tmp_path, "with-past", "cross").folder)
    expected = whole.tokens(PROMPTS, **options)
    assert_same_sequences(full.tokens(PROMPTS, **options), expected)
    assert_same_sequences([whole.tokens([prompt], **options)[0] for prompt in PROMPTS], expected)
    assert_same_sequences(states.tokens(encoder_states(encoder_decoder, PROMPTS), **options), expected)
    assert any(sequences != expected[0] for sequences in expected)


def test_answers_of_encoder_states_are_texts(encoder_decoder: DecoderBundle, tmp_path: Path) -> None:
    whole = generator(copy_decoder(encoder_decoder, tmp_path, "with-past", "encoder").folder)
    states = generator(copy_decoder(encoder_decoder, tmp_path, "with-past", "cross").folder)
    texts = ["Ada Lovelace lived", "Oslo"]
    given = encoder_states(encoder_decoder, [encoder_decoder.tokenizer(text).input_ids for text in texts])
    assert states(given) == whole(texts) == [whole(text) for text in texts]
    first = EncoderStates(given.hidden_states[:1])
    assert (
        "".join(states.stream(first)) == states(first)[0][0]["generated_text"] == whole(texts[0])[0]["generated_text"]
    )


def encoder_states(bundle: DecoderBundle, texts: list[list[int]]) -> EncoderStates:
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[1] * (width - len(text))] for text in texts])
    mask = (ids != 1).long()
    with torch.no_grad():
        states = bundle.model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return EncoderStates(states.numpy(), mask.numpy())


def test_threads_may_share_a_generator(continue_: Generator) -> None:
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda prompt: continue_.tokens([prompt], num_beams=2)[0], PROMPTS * 3))
    assert_same_sequences(together, continue_.tokens(PROMPTS * 3, num_beams=2))


def test_tokens_may_be_of_numpy(continue_: Generator) -> None:
    array: Any = np.array(PROMPTS[:1])
    assert continue_.tokens(array) == continue_.tokens(PROMPTS[:1])
