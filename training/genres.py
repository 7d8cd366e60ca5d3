"""What the embedder learns: similar vectors for passages of one genre; and how often the nearest one is of its kind.

B is the number of passages in a batch, T the number of tokens of the longest, D the size of a vector, N a number of
passages, W a number of words.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from rpln_model import RobertaPreLayerNormModel
from training.batches import batches_by_length, padded_inputs
from training.brown import Document
from training.networks import ENCODER_LENGTH
from training.plain_text import text_from_words
from training.tokenizer import END_ID, START_ID
from training.word_weights import TfIdf

_IMAGINATIVE: Final = frozenset({"fiction", "mystery", "science_fiction", "adventure", "romance", "humor"})
_SENTENCES: Final = range(2, 9)  # of a passage, when training
_TEMPERATURE: Final = 0.1
_BATCH_TOKENS: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A few sentences, and the name and genre of the document that has them."""

    text: str
    document: str
    genre: str

    @property
    def kind(self) -> str:
        """The half of the corpus that the genre belongs to in its manual: imaginative or informative prose."""
        return "imaginative" if self.genre in _IMAGINATIVE else "informative"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPassage:
    """The tokens of a passage, <s> and </s> included, its genre's number, and its place among the passages."""

    token_ids: list[int]
    genre: int
    place: int

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.token_ids)


def equal_passages(documents: Sequence[Document], *, sentences: int) -> list[Passage]:
    """Cut the documents into passages of so many sentences; the rest at a document's end is dropped."""
    return [
        _passage(document, start, start + sentences)
        for document in documents
        for start in range(0, len(document.sentences) - sentences + 1, sentences)
    ]


def random_passages(documents: Sequence[Document], *, rng: random.Random) -> list[Passage]:
    """Cut the documents into passages of 2 to 8 sentences, at random."""
    passages = []
    for document in documents:
        start = 0
        while start < len(document.sentences):
            end = start + rng.choice(_SENTENCES)
            passages.append(_passage(document, start, end))
            start = end
    return passages


def encode_passages(
    tokenizer: Tokenizer, passages: Sequence[Passage], *, genres: Sequence[str]
) -> list[EncodedPassage]:
    """Tokenize the passages, and cut them at ENCODER_LENGTH tokens."""
    encodings = tokenizer.encode_batch([passage.text for passage in passages], add_special_tokens=False)
    return [
        EncodedPassage(
            token_ids=[START_ID, *encoding.ids[: ENCODER_LENGTH - 2], END_ID],
            genre=genres.index(passage.genre),
            place=place,
        )
        for place, (passage, encoding) in enumerate(zip(passages, encodings, strict=True))
    ]


class GenreVectors(nn.Module):
    """An encoder, and a vector for each genre, which is trained along and not saved."""

    def __init__(self, encoder: RobertaPreLayerNormModel, *, genres: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.genre_embeddings = nn.Parameter(torch.randn(genres, encoder.config.hidden_size))

    def loss(self, passages: Sequence[EncodedPassage]) -> Tensor:
        """Return the cross entropy over the genres, whose scores are the cosines of passage and genre."""
        vectors_BD = vectors_of(self.encoder, passages)
        cosines = vectors_BD @ F.normalize(self.genre_embeddings, dim=-1).T
        return F.cross_entropy(cosines.float() / _TEMPERATURE, torch.tensor([passage.genre for passage in passages]))


def vectors_of(encoder: RobertaPreLayerNormModel, passages: Sequence[EncodedPassage]) -> Tensor:
    """Return the mean of each passage's last hidden states, special tokens included, scaled to length 1: (B, D)."""
    inputs = padded_inputs([passage.token_ids for passage in passages])
    mask_BT, hidden_BTD = inputs["attention_mask"], encoder(**inputs).last_hidden_state
    return F.normalize((hidden_BTD * mask_BT[..., None]).sum(dim=1) / mask_BT.sum(dim=1, keepdim=True), dim=-1)


@torch.inference_mode()
def likeness_by_network(encoder: RobertaPreLayerNormModel, passages: Sequence[EncodedPassage]) -> Tensor:
    """Return the cosines of the vectors of every two passages, (N, N). Puts `encoder` into eval mode."""
    encoder.eval()
    vectors_ND = torch.zeros(len(passages), encoder.config.hidden_size)
    for group in batches_by_length(passages, max_tokens=_BATCH_TOKENS):
        vectors_ND[[passage.place for passage in group]] = vectors_of(encoder, group)
    return vectors_ND @ vectors_ND.T


def likeness_by_words(weights: TfIdf, passages: Sequence[Passage]) -> Tensor:
    """Return the cosines of the tf-idf vectors of every two passages, (N, N)."""
    vectors = [weights.vector(passage.text) for passage in passages]
    columns = {word: column for column, word in enumerate(sorted(set(chain.from_iterable(vectors))))}
    table_NW = torch.zeros(len(passages), len(columns))
    for row, vector in enumerate(vectors):
        table_NW[row, [columns[word] for word in vector]] = torch.tensor(list(vector.values()))
    return table_NW @ table_NW.T


def nearest_alike(
    likeness_NN: Tensor, passages: Sequence[Passage], *, trait: Callable[[Passage], str]
) -> tuple[int, float]:
    """Return the number of passages looked at, and the share whose nearest passage has the same trait.

    The nearest passage is the most similar one of another document. A passage whose trait no other document has is not
    looked at, but may be the nearest of another.
    """
    same_document = _equal([passage.document for passage in passages])
    same_trait = _equal([trait(passage) for passage in passages])
    looked_for = (same_trait & ~same_document).any(dim=1)
    nearest = likeness_NN.masked_fill(same_document, -torch.inf).argmax(dim=1)
    found = same_trait[torch.arange(len(passages)), nearest][looked_for]
    return int(looked_for.sum()), float(found.float().mean())


def _equal(names: Sequence[str]) -> Tensor:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    column = torch.tensor([numbers[name] for name in names])
    return column[:, None] == column


def _passage(document: Document, start: int, end: int) -> Passage:
    texts = [text_from_words(sentence).text for sentence in document.sentences[start:end]]
    return Passage(text=" ".join(texts), document=document.name, genre=document.genre)
