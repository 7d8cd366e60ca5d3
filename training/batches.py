"""Batches: examples of like lengths together, padded on the right."""

import random
from collections.abc import Sequence, Sized
from typing import Final, TypeVar

import torch
from torch import Tensor

_Sized = TypeVar("_Sized", bound=Sized)

IGNORED: Final = -100  # the label that torch's cross entropy leaves out


def batches_by_length(
    examples: Sequence[_Sized], *, max_tokens: int, rng: random.Random | None = None
) -> list[list[_Sized]]:
    """Return groups of examples of like lengths, each of at most `max_tokens` tokens with padding, or of one example.

    An example's `len` is its number of tokens.

    With `rng`, the examples of a group and the order of the groups are drawn by chance.
    """
    order = list(examples)
    if rng:
        rng.shuffle(order)  # the sort is stable, so that examples of one length have other neighbours every time
    order.sort(key=len)
    groups: list[list[_Sized]] = [[]]
    for example in order:
        if groups[-1] and (len(groups[-1]) + 1) * len(example) > max_tokens:
            groups.append([])
        groups[-1].append(example)
    if rng:
        rng.shuffle(groups)
    return groups


def padded_table(rows: Sequence[Sequence[int]], *, padding: int) -> Tensor:
    """Return the rows as int64 (rows, longest row), `padding` after the end of each."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
