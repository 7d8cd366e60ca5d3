import random

import torch
from torch.nn import functional as F

from training.word_vectors import neighbour_counts, word_vectors

_NOUNS, _VERBS, _ENDS = range(10, 20), range(20, 30), range(30, 33)


def _passages() -> list[list[int]]:
    rng = random.Random(0)
    return [[0, rng.choice(_NOUNS), rng.choice(_VERBS), rng.choice(_NOUNS), rng.choice(_ENDS), 2] for _ in range(2000)]


def test_neighbours_are_counted_in_their_order() -> None:
    counts = neighbour_counts([[0, 5, 6, 5, 6, 2], [0, 6, 5, 2]], vocabulary_size=8)
    pairs = {(0, 5): 1, (5, 6): 2, (6, 5): 2, (6, 2): 1, (0, 6): 1, (5, 2): 1}
    assert {(int(a), int(b)): int(counts[a, b]) for a, b in counts.nonzero()} == pairs


def test_tokens_with_like_neighbours_have_like_vectors() -> None:
    torch.manual_seed(0)
    vectors = F.normalize(word_vectors(_passages(), vocabulary_size=40, size=8), dim=1)
    alike = [(vectors[list(kind)] @ vectors[list(kind)].T).mean() for kind in (_NOUNS, _VERBS, _ENDS)]
    unlike = [(vectors[list(_NOUNS)] @ vectors[list(kind)].T).mean() for kind in (_VERBS, _ENDS)]
    assert min(alike) > max(unlike) + 0.4


def test_every_token_has_a_vector_of_one_length() -> None:
    torch.manual_seed(0)
    vectors = word_vectors(_passages(), vocabulary_size=40, size=8)
    torch.testing.assert_close(vectors.square().mean(dim=1), torch.ones(40))
