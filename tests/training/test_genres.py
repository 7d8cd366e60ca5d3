import random

import pytest
import torch
from tokenizers import Tokenizer
from transformers import RobertaPreLayerNormConfig

from rpln_model import RobertaPreLayerNormModel
from training.brown import Document, Word
from training.genres import (
    GenreVectors,
    Passage,
    encode_passages,
    equal_passages,
    likeness_by_network,
    likeness_by_words,
    nearest_alike,
    random_passages,
    vectors_of,
)
from training.tokenizer import train_tokenizer
from training.word_weights import TfIdf

_GENRES = ["fiction", "news"]


def _document(name: str, genre: str, sentences: int) -> Document:
    return Document(name=name, genre=genre, paragraphs=(tuple((Word(f"{name}{i}", "X"),) for i in range(sentences)),))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["one two three"] * 3, vocabulary_size=280)


@pytest.fixture
def encoder() -> RobertaPreLayerNormModel:
    torch.manual_seed(0)
    config = RobertaPreLayerNormConfig(
        vocab_size=280, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=260, type_vocab_size=1, initializer_range=0.2,
    )  # fmt: skip
    return RobertaPreLayerNormModel(config, add_pooling_layer=False)


def test_passages_are_sentences_in_a_row() -> None:
    documents = [_document("a", "news", 7), _document("b", "fiction", 2)]
    assert equal_passages(documents, sentences=3) == [
        Passage(text="a0 a1 a2", document="a", genre="news"),
        Passage(text="a3 a4 a5", document="a", genre="news"),
    ]
    drawn = random_passages([_document("a", "news", 60), *documents[1:]], rng=random.Random(0))
    assert " ".join(passage.text for passage in drawn) == " ".join([*(f"a{i}" for i in range(60)), "b0", "b1"])
    assert {len(passage.text.split()) for passage in drawn[:-2]} <= set(range(2, 9))
    assert len({len(passage.text.split()) for passage in drawn}) > 2


def test_vectors_are_means_over_the_tokens_that_are_there(
    tokenizer: Tokenizer, encoder: RobertaPreLayerNormModel
) -> None:
    texts = ["one", "two three one two three", "one " * 300]
    passages = [Passage(text=text, document="d", genre="news") for text in texts]
    encoded = encode_passages(tokenizer, passages, genres=_GENRES)
    assert [len(passage) for passage in encoded[:2]] == [len(tokenizer.encode(text).ids) for text in texts[:2]]
    assert len(encoded[2]) == 128
    encoder.eval()
    with torch.inference_mode():
        vectors = vectors_of(encoder, encoded)
        for vector, passage in zip(vectors, encoded, strict=True):
            mean = encoder(torch.tensor([passage.token_ids])).last_hidden_state[0].mean(dim=0)
            torch.testing.assert_close(vector, mean / mean.norm())
    likeness = likeness_by_network(encoder, encoded)
    torch.testing.assert_close(likeness, vectors @ vectors.T)


def test_training_brings_a_passage_to_its_genre(tokenizer: Tokenizer, encoder: RobertaPreLayerNormModel) -> None:
    passages = [Passage(text=text, document=text, genre=genre) for text, genre in (("one", "news"), ("two", "fiction"))]
    encoded = encode_passages(tokenizer, passages, genres=_GENRES)
    trained = GenreVectors(encoder, genres=2)
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        trained.loss(encoded).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
    assert trained.loss(encoded) < 0.01
    cosines = vectors_of(encoder, encoded) @ trained.genre_embeddings.T
    assert cosines.argmax(dim=1).tolist() == [1, 0]


def test_likeness_by_words_is_that_of_tf_idf() -> None:
    texts = ["the dog", "the dog barked", "a cat", "the the dog"]
    weights = TfIdf(texts)
    table = likeness_by_words(weights, [Passage(text=text, document="d", genre="news") for text in texts])
    expected = torch.tensor([[weights.likeness(one, other) for other in texts] for one in texts])
    torch.testing.assert_close(table, expected)


def test_the_nearest_passage_is_one_of_another_document() -> None:
    passages = [
        Passage(text="", document=document, genre=genre)
        for document, genre in [("a", "news"), ("a", "news"), ("b", "news"), ("c", "fiction"), ("d", "law")]
    ]
    likeness = torch.tensor(
        [
            [1.0, 0.9, 0.8, 0.1, 0.2],  # b: right
            [0.9, 1.0, 0.3, 0.4, 0.2],  # c: wrong
            [0.8, 0.3, 1.0, 0.1, 0.2],  # a: right
            [0.1, 0.4, 0.1, 1.0, 0.0],  # the only one of its genre
            [0.2, 0.2, 0.2, 0.0, 1.0],  # the only one of its genre
        ]
    )
    assert nearest_alike(likeness, passages, trait=lambda passage: passage.genre) == pytest.approx((3, 2 / 3))
    # Of the four passages of informative prose, only the second has a nearest one of another kind. The passage of
    # fiction is the only one of imaginative prose, and is not counted.
    assert nearest_alike(likeness, passages, trait=lambda passage: passage.kind) == pytest.approx((4, 3 / 4))
