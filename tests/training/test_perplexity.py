import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from training.kneser_ney import KneserNey
from training.perplexity import ngram_row, surprise_of_network, surprise_of_ngrams
from training.windows import Stream

_STREAMS = [
    Stream(sentences=((5, 6, 7), (5, 6, 2)), words=4),
    Stream(sentences=((6, 5, 5, 7, 2),), words=2),
]


class _KnowsTheUnigrams(nn.Module):
    """A model that gives tokens 5, 6, 7 and 2 the probabilities 1/2, 1/4, 1/8 and 1/8, and others none."""

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> SimpleNamespace:
        logits = torch.full((8,), -math.inf)
        logits[[5, 6, 7, 2]] = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8]).log()
        return SimpleNamespace(logits=logits.expand(*input_ids.shape, -1))


class _KnowsTheBigrams(nn.Module):
    """A model with `log_probabilities` (before, after). After padding it gives NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.log_probabilities = torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).log_softmax(-1)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.log_probabilities[input_ids] / attention_mask[..., None])


def test_a_token_is_foretold_by_what_stands_before_it() -> None:
    model = _KnowsTheBigrams()
    pairs = [(0, 5), (5, 6), (6, 7), (7, 5), (5, 6), (6, 2), (0, 6), (6, 5), (5, 5), (5, 7), (7, 2)]
    wanted = -sum(float(model.log_probabilities[pair]) for pair in pairs)
    assert surprise_of_network(model, _STREAMS, length=256).nats == pytest.approx(wanted)


@pytest.mark.parametrize("length", [3, 5, 256])
def test_every_token_of_the_text_is_scored_once(length: int) -> None:
    surprise = surprise_of_network(_KnowsTheUnigrams(), _STREAMS, length=length)
    bits = 4 * 1 + 3 * 2 + 2 * 3 + 2 * 3  # the tokens 5, 6, 7 and 2
    assert (surprise.tokens, surprise.words) == (11, 6)
    assert surprise.nats == pytest.approx(bits * math.log(2))
    assert surprise.token_perplexity == pytest.approx(2 ** (bits / 11))
    assert surprise.word_perplexity == pytest.approx(2 ** (bits / 6))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngrams_are_scored_on_the_same_tokens(order: int) -> None:
    rows = [ngram_row(stream, order=order) for stream in _STREAMS]
    model = KneserNey(rows, order=order, vocabulary_size=8)
    surprise = surprise_of_ngrams(model, _STREAMS)
    assert (surprise.tokens, surprise.words) == (11, 6)
    contexts = [[0] * (order - 1) + [5, 6, 7, 5, 6, 2], [0] * (order - 1) + [6, 5, 5, 7, 2]]
    product = math.prod(
        model.probability(row[place], row[:place]) for row in contexts for place in range(order - 1, len(row))
    )
    assert surprise.nats == pytest.approx(-math.log(product))
