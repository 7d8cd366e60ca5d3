"""The case restorer at work: pairs of tokenized texts to train on, and texts restored token by token.

B is the number of texts in a batch, S the number of tokens of the longest bare text, T of the longest written text, and
V the size of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rpln_model import EncoderDecoderModel
from training.batches import IGNORED, Batch, batches_by_length, padded_inputs, padded_table
from training.restoration import bare_text
from training.tokenizer import END_ID, PAD_ID, START_ID

_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Pair:
    """The tokens of a bare text, from <s> to </s>, and those of the written one, without the <s> that starts it."""

    bare: list[int]
    written: list[int]

    def __len__(self) -> int:
        """Return the number of tokens of the longer side."""
        return max(len(self.bare), len(self.written))


def encode_pairs(tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int) -> list[Pair]:
    """Tokenize the written texts and their bare forms, and leave out pairs with a side of more than `max_length`."""
    bare = tokenizer.encode_batch([bare_text(text) for text in texts])
    written = tokenizer.encode_batch(texts)
    pairs = [Pair(before.ids, after.ids[1:]) for before, after in zip(bare, written, strict=True)]
    return [pair for pair in pairs if len(pair) <= max_length]


def restorer_batch(pairs: Sequence[Pair]) -> Batch:
    """Return the bare texts padded (B, S), with the written ones as labels (B, T)."""
    labels = padded_table([pair.written for pair in pairs], padding=IGNORED)
    return {**padded_inputs([pair.bare for pair in pairs]), "labels": labels}


@torch.inference_mode()
def token_accuracy(model: EncoderDecoderModel, pairs: Sequence[Pair]) -> float:
    """Return the share of written tokens that the model, put into eval mode, predicts from the right ones before."""
    model.eval()
    right, tokens = 0, 0
    for group in batches_by_length(pairs, max_tokens=_BATCH_TOKENS):
        batch = restorer_batch(group)
        logits_BTV, labels_BT = model(**batch).logits, batch["labels"]
        right += int((logits_BTV.argmax(-1) == labels_BT).sum())
        tokens += int((labels_BT != IGNORED).sum())
    return right / tokens


def restored_texts(
    model: EncoderDecoderModel, tokenizer: Tokenizer, bare_texts: Sequence[str], *, max_length: int
) -> list[str]:
    """Return the text that the model writes for each bare text, with the likeliest token at every step.

    Bare and written texts are cut at `max_length` tokens. Puts the model into eval mode.
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
    """Return the tokens that the model writes for each row, (B, T), with padding after their </s>."""
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
