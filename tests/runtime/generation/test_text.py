"""Texts are those of transformers' pipelines, and special tokens are treated alike."""

import warnings
from typing import Any

import pytest
import transformers

from rpln_runtime import Generator, generator, pipeline
from tests.runtime.decoders import DecoderBundle, without_position_ids

TEXTS = ["Ada Lovelace lived in", "The capital", "Is this 東京", " a leading space", "</s> in front"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"return_full_text": False},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 2, "return_full_text": False},
]


@pytest.fixture(scope="module")
def continue_(causal_lm: DecoderBundle) -> Generator:
    return generator(causal_lm.folder, max_new_tokens=16)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_prompts_are_continued_as_by_transformers(
    causal_lm: DecoderBundle, continue_: Generator, options: dict[str, Any]
) -> None:
    make: Any = transformers.pipeline
    hf = make("text-generation", model=without_position_ids(causal_lm.model), tokenizer=causal_lm.tokenizer)
    plain = {"add_special_tokens": False, "clean_up_tokenization_spaces": False, "do_sample": False}

    def theirs(text: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # transformers 4.57 warns that the pipeline's own defaults are set beside max_new_tokens
            # Our prompts begin with <s> and do not end with </s>, so it is written into the text here.
            found = hf(f"<s>{text}", max_new_tokens=16, **plain, **options)
        return [{"generated_text": one["generated_text"].removeprefix("<s>")} for one in found]

    expected = [theirs(text) for text in TEXTS]
    assert [continue_(text, **options) for text in TEXTS] == expected
    assert continue_(TEXTS, **options) == expected


def test_an_empty_prompt_begins_with_the_first_token(continue_: Generator, causal_lm: DecoderBundle) -> None:
    (sequences,) = continue_.tokens([[0]])
    expected = causal_lm.tokenizer.decode(sequences[0].tokens, skip_special_tokens=True)
    assert continue_("") == [{"generated_text": expected}]
    assert continue_.tokens([[]]) == [sequences]


def test_special_tokens_that_a_text_spells_stay(continue_: Generator, causal_lm: DecoderBundle) -> None:
    ids = causal_lm.tokenizer("Oslo</s>").input_ids[:-1]
    assert ids[-1] == 2
    (sequences,) = continue_.tokens([ids])
    (answer,) = continue_("Oslo</s>", return_full_text=False)
    assert answer["generated_text"] == causal_lm.tokenizer.decode(sequences[0].tokens, skip_special_tokens=True)


def test_a_text_is_answered_by_its_whole_encoding(encoder_decoder: DecoderBundle) -> None:
    answer = generator(encoder_decoder.folder, max_new_tokens=16)
    text = "The capital of France"
    ids = encoder_decoder.tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (0, 2)
    (sequences,) = answer.tokens([ids], num_beams=2, num_return_sequences=2)
    decode = encoder_decoder.tokenizer.decode
    expected = [{"generated_text": decode(one.tokens, skip_special_tokens=True)} for one in sequences]
    assert answer(text, num_beams=2, num_return_sequences=2) == expected
    assert answer([text, "Oslo"], num_beams=2, num_return_sequences=2)[0] == expected


def test_a_pipeline_of_a_decoder_is_its_generator(causal_lm: DecoderBundle, continue_: Generator) -> None:
    opened = pipeline(causal_lm.folder, max_new_tokens=16, batch_size=2)
    assert isinstance(opened, Generator)
    assert opened(TEXTS) == continue_(TEXTS)


def test_no_texts_give_no_answers(continue_: Generator) -> None:
    assert continue_([]) == []
    assert continue_.tokens([]) == []
    assert continue_.tokens([], num_beams=2) == []
