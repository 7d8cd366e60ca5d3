"""The case restorer at work: pairs of tokenized texts to train on, and texts restored token by token.

B is the number of texts in a batch, S the tokens of the longest bare text, T those of the longest written one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rpln_model import EncoderDecoderModel
from training.batches import IGNORED, batches_by_length, padded_table
from training.restoration import bare_text
from training.tokenizer import END_ID, PAD_ID, START_ID

_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Pair:
    """The tokens of a bare text, from <s> to </s>, and those of the written one, without the <s> that starts it."""

    bare: list[int]
    written: list[int]

    def __len__(self) -> int:
        """The tokens of the longer side."""
        return max(len(self.bare), len(self.written))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBatch:
    """Pairs padded on the right: int64 bare_ids and bare_mask (B, S), and labels (B, T)."""

    bare_ids: Tensor
    bare_mask: Tensor
    labels: Tensor


def encode_pairs(tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int) -> list[Pair]:
    """Tokenize written texts and what is left of them, without pairs of which one side is too long."""
    bare = tokenizer.encode_batch([bare_text(text) for text in texts])
    written = tokenizer.encode_batch(texts)
    pairs = [Pair(before.ids, after.ids[1:]) for before, after in zip(bare, written, strict=True)]
    return [pair for pair in pairs if len(pair) <= max_length]


def batch_from_pairs(pairs: Sequence[Pair]) -> PairBatch:
    """Pad each side to its longest text."""
    bare_ids = padded_table([pair.bare for pair in pairs], padding=PAD_ID)
    return PairBatch(
        bare_ids=bare_ids,
        bare_mask=(bare_ids != PAD_ID).long(),
        labels=padded_table([pair.written for pair in pairs], padding=IGNORED),
    )


@torch.inference_mode()
def token_accuracy(model: EncoderDecoderModel, pairs: Sequence[Pair]) -> float:
    """Return the share of the written tokens that the model, put into eval mode, expects after the right ones."""
    model.eval()
    right, tokens = 0, 0
    for group in batches_by_length(pairs, max_tokens=_BATCH_TOKENS):
        batch = batch_from_pairs(group)
        logits_BTV = model(input_ids=batch.bare_ids, attention_mask=batch.bare_mask, labels=batch.labels).logits
        right += int((logits_BTV.argmax(-1) == batch.labels).sum())
        tokens += int((batch.labels != IGNORED).sum())
    return right / tokens


def restored_texts(
    model: EncoderDecoderModel, tokenizer: Tokenizer, bare_texts: Sequence[str], *, max_length: int
) -> list[str]:
    """Return what the model, put into eval mode, writes for each text: the likeliest token at every step.

    A text of more than `max_length` tokens is cut, and what is written ends there, too.
    """
    model.eval()
    encoded = [encoding.ids[:max_length] for encoding in tokenizer.encode_batch(bare_texts)]
    restored: dict[int, str] = {}
    for group in batches_by_length([_Row(index, ids) for index, ids in enumerate(encoded)], max_tokens=_BATCH_TOKENS):
        written = _greedy(model, padded_table([row.tokens for row in group], padding=PAD_ID), max_length=max_length)
        texts = tokenizer.decode_batch(written.tolist(), skip_special_tokens=True)
        restored |= {row.index: text.strip() for row, text in zip(group, texts, strict=True)}
    return [restored[index] for index in range(len(bare_texts))]


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    tokens: list[int]

    def __len__(self) -> int:
        return len(self.tokens)


@torch.inference_mode()
def _greedy(model: EncoderDecoderModel, bare_ids_BS: Tensor, *, max_length: int) -> Tensor:
    """Return the tokens of each row, (B, T), padding after its </s>."""
    mask_BS = (bare_ids_BS != PAD_ID).long()
    encoder_outputs = (model.encode(bare_ids_BS, mask_BS),)
    ids_B1 = torch.full_like(bare_ids_BS[:, :1], START_ID)
    steps: list[Tensor] = []
    past = None
    while len(steps) < max_length - 1:
        output = model(
            attention_mask=mask_BS,
            encoder_outputs=encoder_outputs,
            decoder_input_ids=ids_B1,
            past_key_values=past,
            use_cache=True,
        )
        past = output.past_key_values
        over_B1 = (ids_B1 == END_ID) | (ids_B1 == PAD_ID)
        ids_B1 = output.logits[:, -1:].argmax(-1).masked_fill(over_B1, PAD_ID)
        steps.append(ids_B1)
        if bool(((ids_B1 == END_ID) | (ids_B1 == PAD_ID)).all()):
            break
    return torch.cat(steps, dim=1)
