import pytest
import torch
from tokenizers import Tokenizer
from transformers import RobertaPreLayerNormConfig

from rpln_model import RobertaPreLayerNormForMaskedLM
from training.brown import Document, Word
from training.mails import Mail
from training.masking import (
    document_streams,
    mail_streams,
    mask_by_chance,
    mask_every_seventh,
    masked_logits,
    masked_loss,
    passages_of,
)
from training.tokenizer import train_tokenizer

_START, _PAD, _END, _MASK = 0, 1, 2, 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["He said yes."] * 3, vocabulary_size=280)


@pytest.fixture
def model() -> RobertaPreLayerNormForMaskedLM:
    torch.manual_seed(0)
    config = RobertaPreLayerNormConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40, type_vocab_size=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )  # fmt: skip
    return RobertaPreLayerNormForMaskedLM(config)


def _passages(*lengths: int) -> list[list[int]]:
    return [[_START, *range(10, 8 + length), _END] for length in lengths]


def test_passages_have_both_ends_and_every_token_once(tokenizer: Tokenizer) -> None:
    yes = (Word("He", "PRON"), Word("said", "VERB"), Word("yes", "ADV"), Word(".", "."))
    document = Document(name="ca01", genre="news", paragraphs=((yes,) * 5,))
    mail = Mail(name="m", is_spam=False, subject="", text="He said yes. " * 5)
    sentence = tokenizer.encode("He said yes.", add_special_tokens=False).ids
    for stream in (*document_streams(tokenizer, [document]), *mail_streams(tokenizer, [mail])):
        passages = passages_of([stream], length=10)
        assert all(len(p) <= 10 and (p[0], p[-1]) == (_START, _END) for p in passages)
        assert [token for passage in passages for token in passage[1:-1]][:20] == sentence * 5


def test_a_long_mail_is_read_to_a_limit(tokenizer: Tokenizer) -> None:
    (stream,) = mail_streams(tokenizer, [Mail(name="m", is_spam=False, subject="", text="yes " * 2000)])
    assert [len(passage) for passage in passages_of([stream], length=256)] == [256]


def test_three_tokens_in_ten_are_masked_and_no_special_one() -> None:
    torch.manual_seed(0)
    passages = _passages(30, 12)
    seen = torch.zeros(2, 30, dtype=torch.bool)
    for _ in range(100):
        batch = mask_by_chance(passages)
        assert batch.places.sum() == int(38 * 0.3)
        assert torch.equal(batch.places, batch.input_ids == _MASK)
        seen |= batch.places
    assert seen.sum() == 38
    assert not seen[:, 0].any()
    assert not seen[0, 29]
    assert not seen[1, 11:].any()


@pytest.mark.parametrize("mask", [mask_by_chance, mask_every_seventh])
def test_what_masks_hide_puts_the_passages_together_again(mask: object) -> None:
    assert callable(mask)
    batch = mask(_passages(30, 12))
    restored = batch.input_ids.clone()
    restored[batch.places] = batch.hidden_ids
    assert [row[:length].tolist() for row, length in zip(restored, (30, 12), strict=True)] == _passages(30, 12)
    assert (batch.input_ids[1, 12:] == _PAD).all()
    assert batch.attention_mask.sum(dim=1).tolist() == [30, 12]


def test_when_scoring_the_neighbours_of_a_mask_are_words_that_are_seen() -> None:
    batch = mask_every_seventh(_passages(30, 13, 14, 6, 4))
    assert [row.nonzero().flatten().tolist() for row in batch.places] == [[4, 11, 18, 25], [4], [4, 11], [], []]


def test_logits_at_masks_are_those_of_the_whole_model(model: RobertaPreLayerNormForMaskedLM) -> None:
    batch = mask_every_seventh(_passages(30, 12))
    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.places] = batch.hidden_ids
    whole = model(batch.input_ids, attention_mask=batch.attention_mask, labels=labels)
    torch.testing.assert_close(masked_logits(model, batch), whole.logits[batch.places])
    torch.testing.assert_close(masked_loss(model, batch), whole.loss)
