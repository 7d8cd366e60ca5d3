import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from training.kneser_ney import KneserNey
from training.masked_scores import Neighbours, masked_scores
from training.masking import Masked, mask_every_seventh

_PASSAGES = [[0, 5, 6, 7, 8, 6, 7, 2], [0, 5, 6, 8, 7, 2], [0, 9, 6, 7, 2]]
_SIZE = 10


def _batch(passage: list[int], place: int) -> Masked:
    ids = torch.tensor([passage])
    places = torch.zeros_like(ids, dtype=torch.bool)
    places[0, place] = True
    return Masked(
        input_ids=ids.masked_fill(places, 4),
        attention_mask=torch.ones_like(ids),
        places=places,
        hidden_ids=ids[places],
    )


@pytest.fixture(scope="module")
def neighbours() -> Neighbours:
    return Neighbours(_PASSAGES, vocabulary_size=_SIZE)


def test_bigrams_are_probabilities_after_kneser_and_ney(neighbours: Neighbours) -> None:
    table = neighbours.log_bigrams_VV.exp()
    torch.testing.assert_close(table.sum(dim=1), torch.ones(_SIZE))
    # 6 is followed by 7 three times and by 8 once, which leaves two discounts of 0.75 for others. There are 10 kinds
    # of pairs, two of which end with 7. One is added for every token.
    assert len({pair for passage in _PASSAGES for pair in pairwise(passage)}) == 10
    assert float(table[6, 7]) == pytest.approx((3 - 0.75) / 4 + 2 * 0.75 / 4 * (2 + 1) / (10 + _SIZE))


def test_a_token_is_foretold_by_what_stands_on_both_sides(neighbours: Neighbours) -> None:
    bigrams = neighbours.log_bigrams_VV.exp()
    batch = _batch([0, 5, 6, 8, 7, 2], 2)
    joint = torch.tensor([bigrams[5, token] * bigrams[token, 8] for token in range(_SIZE)])
    torch.testing.assert_close(neighbours.from_both_sides(batch).softmax(-1)[0], joint / joint.sum())
    assert int(joint.argmax()) == 6


def test_unigrams_are_counted(neighbours: Neighbours) -> None:
    shares = neighbours.from_nothing(_batch([0, 5, 6, 8, 7, 2], 2)).exp()
    counts = [1 + sum(p[1:].count(token) for p in _PASSAGES) for token in range(_SIZE)]
    torch.testing.assert_close(shares[0], torch.tensor(counts) / sum(counts))


def test_the_bigrams_foretell_about_as_well_as_those_of_the_language_models_baseline() -> None:
    """They are two implementations, with a fixed discount and with an estimated one."""
    torch.manual_seed(0)
    rows = torch.multinomial(0.7 ** torch.arange(20.0), 40 * 60, replacement=True).view(40, 60) + 5
    passages = [row.tolist() for row in rows]
    ours = Neighbours(passages, vocabulary_size=30).log_bigrams_VV
    theirs = KneserNey(passages, order=2, vocabulary_size=30)
    pairs = [pair for row in passages[:10] for pair in pairwise(row)]
    means = [
        sum(float(ours[before, after]) for before, after in pairs) / len(pairs),
        sum(math.log(theirs.probability(after, [before])) for before, after in pairs) / len(pairs),
    ]
    assert means[0] == pytest.approx(means[1], abs=0.05)


def test_scores_count_first_five_and_surprise() -> None:
    """The logits rank the hidden token first, third and last, for one mask in each passage."""
    passages = [[0, *[5 + row] * 8, 2] for row in range(3)]
    rank = {5: 0, 6: 2, 7: 9}

    def logits_of(batch: Masked) -> Tensor:
        logits = torch.zeros(len(batch.hidden_ids), 12)
        for row, token in enumerate(batch.hidden_ids.tolist()):
            others = [i for i in range(12) if i != token]
            others.insert(rank[token], token)
            logits[row, others] = -torch.arange(12.0)
        return logits

    scores = masked_scores(logits_of, passages)
    assert mask_every_seventh(passages).places.sum() == 3
    normalizer = float(torch.logsumexp(-torch.arange(12.0), 0))
    assert scores.masks == 3
    assert scores.accuracy == pytest.approx(1 / 3)
    assert scores.accuracy_of_five == pytest.approx(2 / 3)
    assert math.log(scores.perplexity) == pytest.approx(normalizer + (0 + 2 + 9) / 3, rel=1e-5)
