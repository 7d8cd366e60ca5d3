"""The language model's scores: perplexity per token, and per word, which does not depend on the tokenizer.

B is the number of windows in a batch, T the number of tokens of the longest, V the size of the vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from training.batches import IGNORED, padded_table
from training.kneser_ney import KneserNey
from training.tokenizer import PAD_ID, START_ID
from training.windows import Stream, disjoint_windows

_BATCH_WINDOWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Surprise:
    """The sum of -ln P that a model gives the tokens of a text, and the numbers of its tokens and words."""

    nats: float
    tokens: int
    words: int

    @property
    def token_perplexity(self) -> float:
        """The geometric mean of 1 / P over tokens."""
        return math.exp(self.nats / self.tokens)

    @property
    def word_perplexity(self) -> float:
        """The geometric mean of 1 / P over words; marks and ends of paragraphs count as parts of words."""
        return math.exp(self.nats / self.words)


@torch.inference_mode()
def surprise_of_network(model: nn.Module, streams: Sequence[Stream], *, length: int) -> Surprise:
    """Return the surprise of a network, in windows of at most `length` that share no token. Puts it into eval mode."""
    model.eval()
    windows = sorted((w for stream in streams for w in disjoint_windows(stream, length=length)), key=len)
    nats, tokens = 0.0, 0
    for start in range(0, len(windows), _BATCH_WINDOWS):
        group = windows[start : start + _BATCH_WINDOWS]
        input_ids_BT = padded_table(group, padding=PAD_ID)
        mask_BT = (input_ids_BT != PAD_ID).long()
        logits_BTV = model(input_ids=input_ids_BT, attention_mask=mask_BT, use_cache=False).logits
        labels_BT = input_ids_BT.masked_fill(mask_BT == 0, IGNORED)[:, 1:]
        nats += F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT.flatten(), reduction="sum").item()
        tokens += int((labels_BT != IGNORED).sum())
    return Surprise(nats=nats, tokens=tokens, words=_words(streams))


def surprise_of_ngrams(model: KneserNey, streams: Sequence[Stream]) -> Surprise:
    """Return the surprise of n-grams, which see the tokens before each token."""
    rows = [ngram_row(stream, order=model.order) for stream in streams]
    first = model.order - 1
    nats = -sum(math.log(model.probability(row[i], row[i - first : i])) for row in rows for i in range(first, len(row)))
    return Surprise(nats=nats, tokens=sum(len(row) - first for row in rows), words=_words(streams))


def ngram_row(stream: Stream, *, order: int) -> list[int]:
    """Return the tokens of a stream behind `order` - 1 times <s>, the context of the first token."""
    return [START_ID] * (order - 1) + [token for sentence in stream.sentences for token in sentence]


def _words(streams: Sequence[Stream]) -> int:
    return sum(stream.words for stream in streams)
