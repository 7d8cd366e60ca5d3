"""The fill-mask model's scores: how well it finds masked tokens, beside n-grams of a token and its two neighbours.

V is the size of the vocabulary, M a number of masks.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from rpln_model import RobertaPreLayerNormForMaskedLM
from training.batches import batches_by_length
from training.masking import Masked, mask_every_seventh, masked_logits
from training.word_vectors import neighbour_counts

_BATCH_TOKENS: Final = 4096
_DISCOUNT: Final = 0.75  # of Kneser and Ney, where it is not estimated


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskScores:
    """The number of masks, the shares whose token was the likeliest or among the five likeliest, and the perplexity."""

    masks: int
    accuracy: float
    accuracy_of_five: float
    perplexity: float


@torch.inference_mode()
def masked_scores(logits_of: Callable[[Masked], Tensor], passages: Sequence[Sequence[int]]) -> MaskScores:
    """Return the scores at every seventh token; `logits_of` returns logits or log-probabilities of masks, (M, V)."""
    masks, first, five, nats = 0, 0, 0, 0.0
    for group in batches_by_length(passages, max_tokens=_BATCH_TOKENS):
        batch = mask_every_seventh(group)
        if not len(batch.hidden_ids):
            continue
        logits_MV = logits_of(batch)
        right = logits_MV.topk(5).indices == batch.hidden_ids[:, None]
        masks += len(right)
        first += int(right[:, 0].sum())
        five += int(right.sum())
        nats += F.cross_entropy(logits_MV, batch.hidden_ids, reduction="sum").item()
    return MaskScores(
        masks=masks,
        accuracy=first / masks,
        accuracy_of_five=five / masks,
        perplexity=float(torch.tensor(nats / masks).exp()),
    )


def masked_lm_scores(model: RobertaPreLayerNormForMaskedLM, passages: Sequence[Sequence[int]]) -> MaskScores:
    """Return the scores of a masked language model. Puts the model into eval mode."""
    model.eval()
    return masked_scores(lambda batch: masked_logits(model, batch), passages)


class Neighbours:
    """The baselines: bigrams on both sides, P(token | left) P(right | token), bigrams of the token before, unigrams.

    Bigrams are smoothed after R. Kneser and H. Ney (1995), with the number of different tokens that a token follows.
    """

    def __init__(self, passages: Iterable[Sequence[int]], *, vocabulary_size: int) -> None:
        counts_VV = neighbour_counts(passages, vocabulary_size=vocabulary_size)
        followers_V1 = (counts_VV > 0).sum(dim=1, keepdim=True)
        preceded_V = (counts_VV > 0).sum(dim=0) + 1  # one more, so that nothing is impossible
        totals_V1 = counts_VV.sum(dim=1, keepdim=True)
        kept_VV = (counts_VV - _DISCOUNT).clamp(min=0) / totals_V1.clamp(min=1)
        left_V1 = torch.where(totals_V1 > 0, _DISCOUNT * followers_V1 / totals_V1.clamp(min=1), 1.0)
        self.log_bigrams_VV = (kept_VV + left_V1 * preceded_V / preceded_V.sum()).log()
        self.log_unigrams_V = (counts_VV.sum(dim=0) + 1).log().log_softmax(dim=0)

    def from_both_sides(self, batch: Masked) -> Tensor:
        """Return the logits at the masks, (M, V), by the tokens before and after, which must not be masks."""
        row, column = batch.places.nonzero(as_tuple=True)
        before_M, after_M = batch.input_ids[row, column - 1], batch.input_ids[row, column + 1]
        return self.log_bigrams_VV[before_M] + self.log_bigrams_VV[:, after_M].T

    def from_before(self, batch: Masked) -> Tensor:
        """Return the logits at the masks, (M, V), by the token before alone."""
        row, column = batch.places.nonzero(as_tuple=True)
        return self.log_bigrams_VV[batch.input_ids[row, column - 1]]

    def from_nothing(self, batch: Masked) -> Tensor:
        """Return the logits at the masks, (M, V), by the frequency of tokens."""
        return self.log_unigrams_V.expand(len(batch.hidden_ids), -1)
