"""The losses that transformers does not define in `transformers.loss`."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def with_loss(loss: Tensor | None, *outputs: Any) -> tuple[Any, ...]:
    """Return the outputs as a tuple, with the loss in front if there is one."""
    return outputs if loss is None else (loss, *outputs)


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy over the last axis. Labels of -100 are ignored."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())
