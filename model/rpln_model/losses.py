"""Losses of the heads, beside those that transformers defines in `transformers.loss`."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def with_loss(loss: Tensor | None, *outputs: Any) -> tuple[Any, ...]:
    """A forward pass's tuple, in which the loss comes first where there is one."""
    return outputs if loss is None else (loss, *outputs)


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the last dimension; labels of -100 do not count."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())
