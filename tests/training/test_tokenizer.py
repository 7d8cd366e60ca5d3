from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from training.tokenizer import FIRST_LETTERS_APART, open_ended, save_tokenizer, train_tokenizer

_TEXTS = ["The Palmerstons and the almerstons met.", "the palmerstons and The Almerstons met."] * 3


def test_a_capital_changes_one_token() -> None:
    tokenizer = train_tokenizer(_TEXTS, vocabulary_size=300, pieces=FIRST_LETTERS_APART)
    capital, small = (tokenizer.encode(text).tokens for text in ("“Palmerston's Almer”", "“palmerston's almer”"))
    assert len(capital) == len(small)
    assert [pair for pair in zip(capital, small, strict=True) if pair[0] != pair[1]] == [("P", "p"), ("ĠA", "Ġa")]


@pytest.mark.parametrize(("open_end", "last"), [(False, 2), (True, None)])
def test_an_open_text_has_nothing_behind_it(tmp_path: Path, open_end: bool, last: int | None) -> None:
    """This holds for transformers' tokenizer, too, some classes of which make a new post-processor."""
    tokenizer = train_tokenizer(_TEXTS, vocabulary_size=300)
    words = tokenizer.encode("The met.", add_special_tokens=False).ids
    wanted = [0, *words, *([] if last is None else [last])]
    tokenizer_class = "RobertaTokenizer"
    if open_end:
        tokenizer, tokenizer_class = open_ended(tokenizer), "PreTrainedTokenizerFast"
    save_tokenizer(tokenizer, tmp_path, max_length=77, tokenizer_class=tokenizer_class)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("The met.").ids == wanted
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("The met.")["input_ids"] == wanted
    assert (loaded.model_max_length, loaded.eos_token_id, loaded.pad_token_id) == (77, 2, 1)
