import random
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.brown import Document, Sentence, Word
from training.choices import (
    Item,
    baseline_accuracy,
    chooser_accuracy,
    chooser_batch,
    encode_items,
    next_sentences,
    sentence_ends,
)
from training.tokenizer import train_tokenizer


def _sentence(*words: str) -> Sentence:
    return tuple(Word(word, "X") for word in words)


def _document(name: str, *, sentences: int = 6) -> Document:
    """Return sentences of ten words, which say from which document and sentence they are."""
    paragraph = tuple(_sentence(*(f"{name}{place}{letter}" for letter in "abcdefghij")) for place in range(sentences))
    return Document(name=name, genre="news", paragraphs=(paragraph,))


_DOCUMENTS = [_document(name) for name in ("x", "y", "z")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["one two three"] * 3, vocabulary_size=280)


def test_the_next_sentence_is_the_answer_and_wrong_ones_are_of_other_documents() -> None:
    items = next_sentences(_DOCUMENTS, rng=random.Random(0))
    assert len(items) == 3 * 5
    for item in items:
        name, place = item.prompt[0], int(item.prompt[1])
        assert len(item.choices) == 4
        assert item.choices[item.answer].startswith(f"{name}{place + 1}a")
        assert [choice[0] == name for choice in item.choices].count(True) == 1
    assert {item.answer for item in items} == {0, 1, 2, 3}


def test_an_end_belongs_to_its_beginning() -> None:
    items = sentence_ends(_DOCUMENTS, rng=random.Random(0))
    assert len(items) == 3 * 6
    for item in items:
        whole = f"{item.prompt} {item.choices[item.answer]}"
        assert whole == " ".join(f"{item.prompt[:2]}{letter}" for letter in "abcdefghij")
        assert min(len(item.prompt.split()), len(item.choices[item.answer].split())) >= 3
        assert [choice[0] == item.prompt[0] for choice in item.choices].count(True) == 1
    assert len({len(item.prompt.split()) for item in items}) > 2


def test_sentences_that_fit_anywhere_and_endless_ones_are_left_out() -> None:
    short, long = _sentence("Yes", "."), _sentence(*["word"] * 41)
    document = Document(name="s", genre="news", paragraphs=((short, long, short),))
    items = next_sentences([*_DOCUMENTS, document], rng=random.Random(0))
    assert len(items) == 3 * 5
    assert not any(choice.startswith(("Yes", "word")) for item in items for choice in item.choices)


def test_rows_are_those_of_the_tokenizers_pairs(tokenizer: Tokenizer) -> None:
    item = Item(prompt="one two", choices=("three", "two two", "one", "three one"), answer=2)
    (encoded,) = encode_items(tokenizer, [item], max_length=50)
    assert encoded.rows == [tokenizer.encode("one two", choice).ids for choice in item.choices]
    assert len(encoded) == 4 * max(map(len, encoded.rows))
    batch = chooser_batch([encoded])
    assert batch["labels"].tolist() == [2]
    assert batch["input_ids"].shape == (1, 4, max(map(len, encoded.rows)))
    for row, ids, mask in zip(encoded.rows, batch["input_ids"][0], batch["attention_mask"][0], strict=True):
        assert (ids[: len(row)].tolist(), mask.tolist()) == (row, [1] * len(row) + [0] * (len(ids) - len(row)))
    assert encode_items(tokenizer, [item, item], max_length=max(map(len, encoded.rows)) - 1) == []


class _LikesLongRows(nn.Module):
    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        assert input_ids.shape == attention_mask.shape
        return SimpleNamespace(logits=attention_mask.sum(dim=-1).float())


def test_accuracy_is_the_share_of_right_choices(tokenizer: Tokenizer) -> None:
    choices = ("one", "one two three", "two", "three")
    items = [Item(prompt="one", choices=choices, answer=answer) for answer in (0, 1, 1, 3)]
    torch.manual_seed(0)
    assert chooser_accuracy(_LikesLongRows(), encode_items(tokenizer, items, max_length=50)) == 1 / 2
    assert baseline_accuracy(lambda _, choice: len(choice), items) == 1 / 2
    assert baseline_accuracy(lambda *_: 1.0, items) == 1 / 4
    assert baseline_accuracy(lambda _, choice: "t" in choice, items) == pytest.approx((0 + 1 / 3 + 1 / 3 + 1 / 3) / 4)
