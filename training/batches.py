"""Batches: examples of similar lengths together, padded on the right.

B is the number of examples in a batch, T the number of tokens of the longest.
"""

import random
from collections.abc import Sequence, Sized
from typing import Final, TypeAlias, TypeVar

import torch
from torch import Tensor

from training.tokenizer import PAD_ID

_Sized = TypeVar("_Sized", bound=Sized)

IGNORED: Final = -100
"""The label that torch's cross entropy leaves out."""

Batch: TypeAlias = dict[str, Tensor]
"""Keyword arguments of a network's forward pass, such as input_ids, attention_mask and labels."""


def batches_by_length(
    examples: Sequence[_Sized], *, max_tokens: int, rng: random.Random | None = None
) -> list[list[_Sized]]:
    """Return groups of examples of similar lengths: at most `max_tokens` tokens with padding each, or one example.

    The length of an example is its number of tokens. With `rng`, the examples of a group and the order of the groups
    are random.
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


def padded_inputs(rows: Sequence[Sequence[int]]) -> Batch:
    """Return token ids, one row per text, as input_ids and attention_mask, both int64 (B, T)."""
    input_ids = padded_table(rows, padding=PAD_ID)
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD_ID).long()}


def padded_table(rows: Sequence[Sequence[int]], *, padding: int) -> Tensor:
    """Return the rows as int64 (rows, longest row), with `padding` after the end of each."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
