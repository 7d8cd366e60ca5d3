"""Stop strings end a text where they end it in transformers, and stop tokens end it, too."""

from typing import Any

import pytest
import torch

from rpln_runtime import Generator, generator
from rpln_runtime.generation.stopping import Stopping
from rpln_runtime.tokenization import Tokenizer
from tests.runtime.decoders import EOS, DecoderBundle, without_position_ids

TEXTS = ["Ada Lovelace", "The capital of", "Is this"]
NEW = 30


@pytest.fixture(scope="module")
def continue_(causal_lm: DecoderBundle) -> Generator:
    return generator(causal_lm.folder, max_new_tokens=NEW, return_full_text=False, stop_token_ids=())


def texts_of(continue_: Generator, **options: Any) -> list[str]:
    return [continue_(text, **options)[0]["generated_text"] for text in TEXTS]


def middle_of(text: str) -> str:
    """Return three characters from the middle of `text`, none of which is an incomplete one."""
    start = next(start for start in range(4, len(text)) if "\N{REPLACEMENT CHARACTER}" not in text[start : start + 3])
    return text[start : start + 3]


def transformers_text(bundle: DecoderBundle, text: str, **options: Any) -> str:
    ids = torch.tensor([bundle.tokenizer(text).input_ids[:-1]])
    model = without_position_ids(bundle.model)
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        eos_token_id=None,
        tokenizer=bundle.tokenizer,
        **options,
    )
    decoded = bundle.tokenizer.decode(
        found[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert isinstance(decoded, str)
    return decoded


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_stop_strings_equal_transformers(
    causal_lm: DecoderBundle, continue_: Generator, options: dict[str, Any]
) -> None:
    usual = texts_of(continue_, **options)
    # Strings of a few characters, a single character, several strings, and a string that no text has.
    some = [middle_of(text) for text in usual]
    for strings in (some[:1], [some[1][1:2]], [some[2][:2], "no such text"], some, ["no such text"]):
        found = texts_of(continue_, stop_strings=strings, **options)
        expected = [transformers_text(causal_lm, text, stop_strings=strings, **options) for text in TEXTS]
        assert found == expected
        assert (found == usual) == (strings == ["no such text"])


def test_a_single_stop_string_needs_no_list(continue_: Generator) -> None:
    string = middle_of(texts_of(continue_)[0])
    assert texts_of(continue_, stop_strings=string) == texts_of(continue_, stop_strings=[string])


def test_rows_stop_on_their_own(continue_: Generator) -> None:
    string = middle_of(texts_of(continue_)[0])
    together = [answers[0]["generated_text"] for answers in continue_(TEXTS, stop_strings=string)]
    assert together == texts_of(continue_, stop_strings=string)
    assert len({len(text) for text in together}) > 1


def test_stop_tokens_are_kept_in_tokens_and_special_ones_left_out_of_texts(causal_lm: DecoderBundle) -> None:
    continue_ = generator(causal_lm.folder, max_new_tokens=NEW)
    prompts = [[0, token] for token in range(100, 120)]
    ended = [row[0].tokens for row in continue_.tokens(prompts) if row[0].tokens[-1] == EOS]
    assert ended
    assert all(EOS not in tokens[:-1] for tokens in ended)
    tokenizer = Tokenizer.from_bundle(causal_lm.folder, causal_lm.manifest)
    answers = [answers[0]["generated_text"] for answers in continue_(TEXTS)]
    assert not any("</s>" in answer for answer in answers)
    assert tokenizer.decode(ended[0]).endswith("</s>")


def test_a_string_is_found_wherever_tokens_part_it(causal_lm: DecoderBundle) -> None:
    tokenizer = Tokenizer.from_bundle(causal_lm.folder, causal_lm.manifest)
    tokens = tokenizer.encode("The capital of Norway 東京 is Oslo.").ids.tolist()[1:-1]
    for string in ("Norway 東", "京", "al of", " ", "Oslo."):
        stop = Stopping([], [string], tokenizer)
        first = next(count for count in range(1, len(tokens) + 1) if string in tokenizer.decode(tokens[:count]))
        assert [stop.ends(tokens[:count]) for count in range(1, first + 1)] == [False] * (first - 1) + [True]
