"""Word embeddings to start from: tokens with similar neighbours get similar vectors.

The vectors are the left singular vectors of a table: the positive pointwise mutual information of each token with its
left neighbours and, side by side, with its right neighbours (O. Levy and Y. Goldberg, *Neural Word Embedding as
Implicit Matrix Factorization*, 2014). From random embeddings a masked language model needs a third of its training to
make them.

V is the size of the vocabulary, D of a vector.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

_DISCOUNT: Final = 0.75  # a pair that occurs once says little
_REFINEMENTS: Final = 4  # of the randomized decomposition


def word_vectors(passages: Iterable[Sequence[int]], *, vocabulary_size: int, size: int) -> Tensor:
    """Return a vector for each token, (V, D), with a root mean square of 1. Draws from torch's generator."""
    counts_VV = neighbour_counts(passages, vocabulary_size=vocabulary_size)
    left_V1, right_1V = counts_VV.sum(dim=1, keepdim=True), counts_VV.sum(dim=0, keepdim=True)
    expected_VV = (left_V1 * right_1V / counts_VV.sum()).clamp(min=1e-9)
    information_VV = ((counts_VV - _DISCOUNT).clamp(min=0) / expected_VV).clamp(min=1).log()
    both_sides = torch.cat([information_VV, information_VV.T], dim=1)
    directions_VD, lengths_D, _ = torch.svd_lowrank(both_sides, q=size, niter=_REFINEMENTS)
    vectors_VD = directions_VD * lengths_D.sqrt()
    unknown = vectors_VD.abs().sum(dim=1, keepdim=True) == 0  # tokens without neighbours, such as <mask>
    vectors_VD = torch.where(unknown, torch.randn_like(vectors_VD), vectors_VD)
    return vectors_VD / vectors_VD.square().mean(dim=1, keepdim=True).sqrt()


def neighbour_counts(passages: Iterable[Sequence[int]], *, vocabulary_size: int) -> Tensor:
    """Return how often each token, by row, is followed by each other one, by column, (V, V)."""
    counts_VV = torch.zeros(vocabulary_size, vocabulary_size)
    for passage in passages:
        row = torch.tensor(passage)
        counts_VV.index_put_((row[:-1], row[1:]), torch.tensor(1.0), accumulate=True)
    return counts_VV
