"""Accuracy and F1 over words: what the model says at each word's first token against the corpus's tag."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.batches import batches_by_length
from training.examples import Example, batch_from_examples
from training.tags import TAGS

_BATCH_TOKENS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class TagScore:
    """Precision, recall and F1 of one tag, in 0..1, and how many words have it."""

    precision: float
    recall: float
    f1: float
    words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores over words: accuracy and unweighted mean of the tags' F1, both in 0..1."""

    words: int
    accuracy: float
    macro_f1: float
    tags: dict[str, TagScore]


def evaluate(model: nn.Module, examples: Sequence[Example]) -> Scores:
    """Return the scores of a token classification `model` (put into eval mode) over the examples' words."""
    model.eval()
    confusion = torch.zeros(len(TAGS), len(TAGS), dtype=torch.int64)  # [tag of the corpus, tag predicted]
    with torch.inference_mode():
        for group in batches_by_length(examples, max_tokens=_BATCH_TOKENS):
            batch = batch_from_examples(group)
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            pairs = torch.stack([batch.labels, logits.argmax(-1)], dim=-1)[batch.is_first]
            confusion.index_put_(tuple(pairs.T), torch.tensor(1), accumulate=True)
    return _scores_from_confusion(confusion)


def _scores_from_confusion(confusion: Tensor) -> Scores:
    correct, actual, predicted = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    tags = {
        tag: TagScore(
            precision=_ratio(correct[i], predicted[i]),
            recall=_ratio(correct[i], actual[i]),
            f1=_ratio(2 * correct[i], actual[i] + predicted[i]),
            words=int(actual[i]),
        )
        for i, tag in enumerate(TAGS)
    }
    return Scores(
        words=int(confusion.sum()),
        accuracy=_ratio(correct.sum(), confusion.sum()),
        macro_f1=sum(score.f1 for score in tags.values()) / len(tags),
        tags=tags,
    )


def _ratio(part: Tensor, whole: Tensor) -> float:
    """Return part / whole, 0 where there is nothing to count, as is usual for a tag that is never predicted."""
    return float(part) / max(float(whole), 1.0)
