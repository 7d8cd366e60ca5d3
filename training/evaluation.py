"""The tagger's scores: accuracy and F1 over words, each by the model's answer at the word's first token.

B is the number of examples in a batch, T the number of tokens of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from training.batches import IGNORED, batches_by_length, padded_inputs, padded_table
from training.examples import TaggedExample
from training.tags import TAGS

_BATCH_TOKENS: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class TagScore:
    """Precision, recall and F1 of one tag, in 0..1, and the number of words that have it."""

    precision: float
    recall: float
    f1: float
    words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggerScores:
    """Scores over words: the accuracy, and the unweighted mean of the tags' F1, both in 0..1."""

    words: int
    accuracy: float
    macro_f1: float
    tags: dict[str, TagScore]


@torch.inference_mode()
def tagger_scores(model: nn.Module, examples: Sequence[TaggedExample]) -> TaggerScores:
    """Return the scores of a token classification `model` over the examples' words. Puts the model into eval mode."""
    model.eval()
    confusion = torch.zeros(len(TAGS), len(TAGS), dtype=torch.int64)  # [tag of the corpus, tag predicted]
    for group in batches_by_length(examples, max_tokens=_BATCH_TOKENS):
        predicted_BT = model(**padded_inputs([example.token_ids for example in group])).logits.argmax(-1)
        labels_BT = padded_table([example.labels for example in group], padding=IGNORED)
        is_first_BT = padded_table([example.is_first for example in group], padding=0).bool()
        pairs = torch.stack([labels_BT, predicted_BT], dim=-1)[is_first_BT]
        confusion.index_put_(tuple(pairs.T), torch.tensor(1), accumulate=True)
    return _scores_from_confusion(confusion)


def _scores_from_confusion(confusion: Tensor) -> TaggerScores:
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
    return TaggerScores(
        words=int(confusion.sum()),
        accuracy=_ratio(correct.sum(), confusion.sum()),
        macro_f1=sum(score.f1 for score in tags.values()) / len(tags),
        tags=tags,
    )


def _ratio(part: Tensor, whole: Tensor) -> float:
    """Return part / whole, or 0 if there is nothing to count, as is usual for a tag that is never predicted."""
    return float(part) / max(float(whole), 1.0)
