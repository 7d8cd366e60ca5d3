"""What the mail filter learns: the beginnings of mails, ham or spam; and its scores.

B is the number of mails in a batch.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import nn

from training.batches import Batch, batches_by_length, padded_inputs
from training.mails import Mail
from training.networks import ENCODER_LENGTH
from training.tokenizer import END_ID, START_ID

LABELS: Final = ("ham", "spam")

_WHOLE_SHARE: Final = 0.5  # the others are seen in part, since people paste a line or two
_SHORTEST_PART: Final = 8
_BATCH_TOKENS: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """The tokens of a mail that the model sees, <s> and </s> included, and whether the mail is spam."""

    token_ids: list[int]
    is_spam: bool

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterScores:
    """Accuracy over mails, and precision, recall and F1 of spam, all in 0..1."""

    mails: int
    accuracy: float
    precision: float
    recall: float
    f1: float


def beginnings_of(tokenizer: Tokenizer, mails: Sequence[Mail], *, length: int = ENCODER_LENGTH) -> list[Beginning]:
    """Tokenize the mails and keep at most `length` tokens of each."""
    encodings = tokenizer.encode_batch([mail.text for mail in mails], add_special_tokens=False)
    return [
        Beginning(token_ids=[START_ID, *encoding.ids[: length - 2], END_ID], is_spam=mail.is_spam)
        for encoding, mail in zip(encodings, mails, strict=True)
    ]


def partly_cut(beginnings: Sequence[Beginning], *, rng: random.Random) -> list[Beginning]:
    """Return about half of the beginnings whole, and a random part of each other one."""
    return [one if rng.random() < _WHOLE_SHARE else _part(one, rng) for one in beginnings]


def filter_batch(beginnings: Sequence[Beginning]) -> Batch:
    """Return the beginnings padded, with labels (B)."""
    labels = torch.tensor([one.is_spam for one in beginnings]).long()
    return {**padded_inputs([one.token_ids for one in beginnings]), "labels": labels}


@torch.inference_mode()
def filter_scores(model: nn.Module, beginnings: Sequence[Beginning]) -> FilterScores:
    """Return the scores of a sequence classification `model`. Puts the model into eval mode."""
    model.eval()
    pairs: list[tuple[bool, bool]] = []
    for group in batches_by_length(beginnings, max_tokens=_BATCH_TOKENS):
        found = model(**padded_inputs([one.token_ids for one in group])).logits.argmax(-1)
        pairs += zip(found.bool().tolist(), [one.is_spam for one in group], strict=True)
    return _scores(pairs)


def baseline_filter_scores(says_spam: Callable[[Sequence[int]], bool], beginnings: Sequence[Beginning]) -> FilterScores:
    """Return the scores of `says_spam`, a function of the tokens of a beginning."""
    return _scores([(says_spam(one.token_ids), one.is_spam) for one in beginnings])


def _part(beginning: Beginning, rng: random.Random) -> Beginning:
    inside = beginning.token_ids[1:-1]
    length = rng.randint(min(_SHORTEST_PART, len(inside)), len(inside))
    start = rng.randint(0, len(inside) - length)
    return Beginning(token_ids=[START_ID, *inside[start : start + length], END_ID], is_spam=beginning.is_spam)


def _scores(pairs: Sequence[tuple[bool, bool]]) -> FilterScores:
    """Return the scores of pairs (answer, truth), each whether a mail is spam."""
    hits = sum(found and true for found, true in pairs)
    found_spam, true_spam = sum(found for found, _ in pairs), sum(true for _, true in pairs)
    return FilterScores(
        mails=len(pairs),
        accuracy=sum(found == true for found, true in pairs) / len(pairs),
        precision=hits / max(found_spam, 1),
        recall=hits / max(true_spam, 1),
        f1=2 * hits / max(found_spam + true_spam, 1),
    )
