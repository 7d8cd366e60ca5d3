"""Training losses, as the heads of transformers define them."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import RobertaPreLayerNormConfig

from rpln_model.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL, ProblemType, label_count


def with_loss(loss: Tensor | None, *outputs: Any) -> tuple[Any, ...]:
    """A forward pass's tuple, in which the loss comes first where there is one."""
    return outputs if loss is None else (loss, *outputs)


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the last dimension; labels of -100 do not count."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def span_loss(start_logits: Tensor, end_logits: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """The mean of both ends' cross-entropies; a position beyond the sequence does not count."""
    outside = start_logits.shape[1]
    start_loss, end_loss = (
        F.cross_entropy(logits, positions.flatten().clamp(0, outside), ignore_index=outside)
        for logits, positions in ((start_logits, starts), (end_logits, ends))
    )
    return (start_loss + end_loss) / 2


def sequence_loss(logits: Tensor, labels: Tensor, config: RobertaPreLayerNormConfig) -> Tensor:
    """The loss of the config's `problem_type`.

    Where that is not set, it follows from the labels and is written to the config, so that a saved model says whether
    its labels exclude each other (as transformers does, whose pipelines read it).
    """
    if config.problem_type is None:
        config.problem_type = _problem_type(labels, label_count(config))
    return SEQUENCE_LOSSES[config.problem_type](logits, labels)


def _problem_type(labels: Tensor, count: int) -> ProblemType:
    if count == 1:
        return REGRESSION
    return SINGLE_LABEL if labels.dtype in (torch.int64, torch.int32) else MULTI_LABEL


def _regression_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(logits.squeeze(), labels.squeeze())


SEQUENCE_LOSSES: Final[dict[ProblemType, Callable[[Tensor, Tensor], Tensor]]] = {
    REGRESSION: _regression_loss,
    SINGLE_LABEL: token_loss,
    MULTI_LABEL: F.binary_cross_entropy_with_logits,
}
