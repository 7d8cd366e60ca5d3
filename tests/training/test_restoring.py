import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    EncoderDecoderConfig,
    RobertaPreLayerNormConfig,
)
from transformers import (
    EncoderDecoderModel as TheirEncoderDecoderModel,
)

from rpln_model import EncoderDecoderModel
from training.restoration import bare_text
from training.restoring import encode_pairs, restored_texts, restorer_batch, token_accuracy
from training.tokenizer import FIRST_LETTERS_APART, train_tokenizer

_TEXTS = ["Mr. Fisk met us in Rome.", "Who?", "The U.S. won, he said; so it is."]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([*_TEXTS, *map(bare_text, _TEXTS)] * 3, vocabulary_size=300, pieces=FIRST_LETTERS_APART)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> EncoderDecoderModel:
    """Return a model that has learned the three sentences by heart."""
    torch.manual_seed(0)
    side = RobertaPreLayerNormConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=40, type_vocab_size=1, initializer_range=0.1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ).to_dict()  # fmt: skip
    decoder = side | {"is_decoder": True, "add_cross_attention": True}
    config = EncoderDecoderConfig(encoder=side, decoder=decoder, decoder_start_token_id=0, pad_token_id=1)
    model = EncoderDecoderModel(config)
    batch = restorer_batch(encode_pairs(tokenizer, _TEXTS, max_length=30))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_a_pair_is_the_bare_text_and_what_is_written_after_the_start(tokenizer: Tokenizer) -> None:
    pairs = encode_pairs(tokenizer, _TEXTS, max_length=30)
    for pair, text in zip(pairs, _TEXTS, strict=True):
        assert pair.bare == tokenizer.encode(bare_text(text)).ids
        assert pair.written == [*tokenizer.encode(text, add_special_tokens=False).ids, 2]
    assert encode_pairs(tokenizer, _TEXTS, max_length=len(pairs[1])) == [pairs[1]]


def test_texts_come_back_in_their_order(model: EncoderDecoderModel, tokenizer: Tokenizer) -> None:
    texts = [_TEXTS[2], _TEXTS[1], _TEXTS[0], _TEXTS[1]]
    assert restored_texts(model, tokenizer, [bare_text(text) for text in texts], max_length=30) == texts
    assert token_accuracy(model, encode_pairs(tokenizer, texts, max_length=30)) == 1


def test_a_text_that_is_too_long_is_cut(model: EncoderDecoderModel, tokenizer: Tokenizer) -> None:
    """The tables of positions end at 38 tokens."""
    cut, whole = restored_texts(model, tokenizer, [bare_text(_TEXTS[0]) * 5, bare_text(_TEXTS[0])], max_length=38)
    assert 0 < len(tokenizer.encode(cut, add_special_tokens=False)) < 38
    assert whole == _TEXTS[0]


def test_token_accuracy_is_that_of_transformers_model(model: EncoderDecoderModel, tokenizer: Tokenizer) -> None:
    pairs = encode_pairs(tokenizer, ["So it is Rome.", "Mr. U.S. met, he said."], max_length=30)
    theirs = TheirEncoderDecoderModel(model.config)
    theirs.eval()
    theirs.load_state_dict(model.state_dict())
    right = 0
    for pair in pairs:
        with torch.inference_mode():
            logits = theirs(torch.tensor([pair.bare]), decoder_input_ids=torch.tensor([[0, *pair.written[:-1]]])).logits
        right += int((logits.argmax(-1) == torch.tensor(pair.written)).sum())
    assert token_accuracy(model, pairs) == pytest.approx(right / sum(len(pair.written) for pair in pairs))
