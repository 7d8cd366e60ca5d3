"""Poolings: what each makes of real tokens, wherever the padding is, and of a text without any."""

from collections.abc import Callable

import pytest
import torch

from rpln_model.sentences import POOLINGS

X_BTD = torch.randn((3, 5, 4), generator=torch.Generator().manual_seed(0)) - 3.0
MASK_BT = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
PLACES = [[1, 2, 4], [0, 1]]
"""The real tokens of the first two texts; the third has none."""

# Each takes the hidden states of the real tokens, and their places among the tokens from the first real one on.
EXPECTED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": lambda x, _: x[0],
    "max": lambda x, _: x.max(dim=0).values,
    "mean": lambda x, _: x.mean(dim=0),
    "mean_sqrt_len_tokens": lambda x, _: x.sum(dim=0) / len(x) ** 0.5,
    "weightedmean": lambda x, place: (x * place[:, None]).sum(dim=0) / place.sum(),
    "lasttoken": lambda x, _: x[-1],
}


@pytest.mark.parametrize("name", POOLINGS)
def test_real_tokens_are_pooled_and_a_text_without_any_gets_zeros(name: str) -> None:
    found_BD = POOLINGS[name](X_BTD, MASK_BT)
    for row, places in enumerate(PLACES):
        expected = EXPECTED[name](X_BTD[row, places], torch.tensor(places) - places[0] + 1)
        torch.testing.assert_close(found_BD[row], expected)
    assert (found_BD[2] == 0).all()
