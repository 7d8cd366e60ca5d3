"""What the fill-mask model learns: tokens that are hidden behind <mask>, from the tokens around them.

B is the number of passages in a batch, T the number of tokens of the longest, M the number of masks in all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from rpln_model import RobertaPreLayerNormForMaskedLM
from training.batches import padded_table
from training.brown import Document
from training.mails import Mail
from training.plain_text import text_from_words
from training.tokenizer import END_ID, MASK_ID, PAD_ID
from training.windows import Stream, disjoint_windows

_SHARE: Final = 0.3  # of the tokens; the usual 0.15 teaches a small model less a minute
_MOST_MAIL_TOKENS: Final = 254  # the rest of a long mail is small print
_FIRST, _EVERY = 4, 7  # in scoring: no mask has a mask beside it


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """Passages with masks: token ids, attention mask, and whether each place is masked (B, T); hidden tokens (M)."""

    input_ids: Tensor
    attention_mask: Tensor
    places: Tensor
    hidden_ids: Tensor


def document_streams(tokenizer: Tokenizer, documents: Iterable[Document]) -> list[Stream]:
    """Return files of the Brown corpus as streams of tokens, sentence by sentence."""
    return [
        _stream(tokenizer, [text_from_words(sentence).text for sentence in document.sentences])
        for document in documents
    ]


def mail_streams(tokenizer: Tokenizer, mails: Iterable[Mail]) -> list[Stream]:
    """Return the beginnings of mails as streams of tokens, each as if it were one sentence."""
    streams = [_stream(tokenizer, [mail.text]) for mail in mails]
    return [Stream(sentences=(s.sentences[0][:_MOST_MAIL_TOKENS],), words=s.words) for s in streams]


def passages_of(streams: Iterable[Stream], *, length: int) -> list[list[int]]:
    """Cut the streams into passages of at most `length` tokens, <s> and </s> included, that share none."""
    return [[*window, END_ID] for stream in streams for window in disjoint_windows(stream, length=length - 1)]


def mask_by_chance(passages: Sequence[Sequence[int]]) -> Masked:
    """Mask three tokens in ten, which torch's generator chooses."""
    input_ids = padded_table(passages, padding=PAD_ID)
    words = (input_ids > END_ID).nonzero()
    chosen = words[torch.randperm(len(words))[: max(1, int(len(words) * _SHARE))]]
    places = torch.zeros_like(input_ids, dtype=torch.bool)
    places[chosen[:, 0], chosen[:, 1]] = True
    return _masked(input_ids, places)


def mask_every_seventh(passages: Sequence[Sequence[int]]) -> Masked:
    """Mask the fifth token of each passage, counting <s>, and every seventh from there, but not its last word."""
    input_ids = padded_table(passages, padding=PAD_ID)
    lengths = torch.tensor([len(passage) for passage in passages])[:, None]
    columns = torch.arange(input_ids.shape[1])
    places = (columns % _EVERY == _FIRST) & (columns < lengths - 2)
    return _masked(input_ids, places)


def masked_logits(model: RobertaPreLayerNormForMaskedLM, batch: Masked) -> Tensor:
    """Return the logits of a masked language model at the masks only, (M, vocabulary)."""
    hidden_BTD = model.roberta_prelayernorm(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    logits_MV: Tensor = model.lm_head(hidden_BTD[batch.places])
    return logits_MV


def masked_loss(model: RobertaPreLayerNormForMaskedLM, batch: Masked) -> Tensor:
    """Return the mean of -ln P over the hidden tokens."""
    return F.cross_entropy(masked_logits(model, batch).float(), batch.hidden_ids)


def _masked(input_ids: Tensor, places: Tensor) -> Masked:
    return Masked(
        input_ids=input_ids.masked_fill(places, MASK_ID),
        attention_mask=(input_ids != PAD_ID).long(),
        places=places,
        hidden_ids=input_ids[places],
    )


def _stream(tokenizer: Tokenizer, sentences: Sequence[str]) -> Stream:
    encodings = tokenizer.encode_batch(sentences, add_special_tokens=False)
    return Stream(
        sentences=tuple(tuple(encoding.ids) for encoding in encodings),
        words=sum(len(sentence.split()) for sentence in sentences),
    )
