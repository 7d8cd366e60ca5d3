"""Training losses, as the heads of transformers define them."""

from typing import Final

from torch import Tensor
from torch.nn import functional as F
from transformers import RobertaPreLayerNormConfig

from rpln_model.errors import ModelInputError

IGNORED: Final = -100
PROBLEM_TYPES: Final = ("regression", "single_label_classification", "multi_label_classification")


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the last dimension; labels of -100 do not count."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each token's logits with the next token's label, in float32."""
    return token_loss(logits[:, :-1].float(), labels[:, 1:])


def span_loss(start_logits: Tensor, end_logits: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """The mean of both ends' cross-entropies; a position beyond the sequence does not count."""
    outside = start_logits.shape[1]
    start_loss, end_loss = (
        F.cross_entropy(logits, positions.view(-1).clamp(0, outside), ignore_index=outside)
        for logits, positions in ((start_logits, starts), (end_logits, ends))
    )
    return (start_loss + end_loss) / 2


def sequence_loss(logits: Tensor, labels: Tensor, config: RobertaPreLayerNormConfig) -> Tensor:
    """The loss of the config's `problem_type`.

    Where that is not set, it follows from the labels and is written to the config, so that a saved model says whether
    its answers are exclusive (as transformers does, whose pipelines read it).
    """
    labels_are_indices = not (labels.is_floating_point() or labels.is_complex())
    if config.problem_type is None:
        if config.num_labels == 1:
            config.problem_type = "regression"
        else:
            config.problem_type = PROBLEM_TYPES[1] if labels_are_indices else PROBLEM_TYPES[2]
    if config.problem_type == "regression":
        return F.mse_loss(logits.squeeze(), labels.squeeze()) if config.num_labels == 1 else F.mse_loss(logits, labels)
    if config.problem_type == "single_label_classification":
        return F.cross_entropy(logits, labels.view(-1))
    if config.problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels)
    raise ModelInputError(f"problem_type is {config.problem_type!r}; expected one of {', '.join(PROBLEM_TYPES)}")
