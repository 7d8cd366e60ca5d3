"""Make the checkpoint for fill-mask, from which the other small encoders start.

    python -m training.train_masked_lm [--data FOLDER] [--output FOLDER] [--epochs N]

It is trained on the Brown corpus and the SpamAssassin mails. See training/README.md.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import torch
from tokenizers import Tokenizer

from rpln_model import RobertaPreLayerNormForMaskedLM
from rpln_model.layers import Layer
from training.batches import batches_by_length
from training.brown import Document
from training.corpora import brown_split, mail_split
from training.examples import texts_of
from training.local_attention import (
    carry_what_is_looked_at,
    point_first_layer_at_neighbours,
    point_heads_at_same_tokens,
)
from training.loop import muon_and_adamw
from training.mails import Mail
from training.masked_scores import MaskScores, Neighbours, masked_lm_scores, masked_scores
from training.masking import document_streams, mail_streams, mask_by_chance, masked_loss, passages_of
from training.networks import ENCODER_LENGTH, encoder_config
from training.script import Script, Setup, run
from training.split import Split
from training.tokenizer import MASK_ID, PAD_ID, train_tokenizer
from training.word_vectors import word_vectors

_VOCABULARY_SIZE: Final = 3200
_BATCH_TOKENS: Final = 2048
_MATRIX_RATE: Final = 0.02
_OTHER_RATE: Final = 3e-3

_HEAD_OFFSETS: Final = (-1, 1, -2, 2)  # of the tokens that the heads of the first layer look at
_SAME_TOKEN_HEADS: Final = (0, 1)  # of the second layer

_FILLINGS: Final = 4
_EXAMPLES: Final = (
    "The old man walked <mask> the boat.",
    "She looked at <mask> and smiled.",
    "In the United <mask>, the president is elected.",
    "If you do not want to receive this newsletter, please <mask> here.",
)

_Passages = Sequence[Sequence[int]]


class Corpora(NamedTuple):
    """The two corpora, each split into training, dev and test documents."""

    documents: Split[Document]
    mails: Split[Mail]


def _read(data: Path) -> Corpora:
    return Corpora(documents=brown_split(data), mails=mail_split(data))


def _setup(corpora: Corpora, rng: random.Random) -> Setup[list[list[int]]]:
    documents, mails = corpora
    texts = [*(text.text for text in texts_of(documents.train)), *(mail.text for mail in mails.train)]
    tokenizer = train_tokenizer(texts, vocabulary_size=_VOCABULARY_SIZE)
    model = RobertaPreLayerNormForMaskedLM(encoder_config(tokenizer))
    passages = _passages(tokenizer, documents.train, mails.train)
    _begin_with_statistics(model, passages)
    dev = _passages(tokenizer, documents.dev, mails.dev)
    return Setup(
        model=model,
        tokenizer=tokenizer,
        max_length=ENCODER_LENGTH,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=lambda: batches_by_length(passages, max_tokens=_BATCH_TOKENS, rng=rng),
        loss_of=lambda group: masked_loss(model, mask_by_chance(group)),
        after_epoch=lambda: f"{masked_lm_scores(model, dev).accuracy:.4f} of the masked dev tokens found",
        facts={"files": len(documents.train), "mails": len(mails.train)},
    )


@torch.no_grad()
def _begin_with_statistics(model: RobertaPreLayerNormForMaskedLM, passages: _Passages) -> None:
    """Let the model begin with what needs no training: how frequent tokens are, and which tokens stand beside them."""
    network = model.roberta_prelayernorm
    words = network.embeddings.word_embeddings.weight
    words.copy_(word_vectors(passages, vocabulary_size=words.shape[0], size=words.shape[1]))
    words *= network.config.initializer_range
    words[PAD_ID] = 0
    model.lm_head.bias.copy_(Neighbours(passages, vocabulary_size=words.shape[0]).log_unigrams_V)
    first, second = (cast(Layer, layer) for layer in network.encoder.layer[:2])
    point_first_layer_at_neighbours(network, offsets=_HEAD_OFFSETS)
    carry_what_is_looked_at(first)
    point_heads_at_same_tokens(second, heads=_SAME_TOKEN_HEADS)


def _passages(tokenizer: Tokenizer, documents: Iterable[Document], mails: Iterable[Mail]) -> list[list[int]]:
    streams = [*document_streams(tokenizer, documents), *mail_streams(tokenizer, mails)]
    return passages_of(streams, length=ENCODER_LENGTH)


def scores_of_saved(folder: Path, tokenizer: Tokenizer, corpora: Corpora) -> Mapping[str, Any]:
    """Return the scores of the checkpoint in `folder` and of the baselines, and masks that it fills."""
    documents, mails = corpora
    model = RobertaPreLayerNormForMaskedLM.from_pretrained(folder)
    training = _passages(tokenizer, documents.train, mails.train)
    ngrams = Neighbours(training, vocabulary_size=tokenizer.get_vocab_size())

    def scores(passages: _Passages) -> dict[str, MaskScores]:
        return {
            "model": masked_lm_scores(model, passages),
            "bigrams on both sides": masked_scores(ngrams.from_both_sides, passages),
            "bigrams": masked_scores(ngrams.from_before, passages),
            "unigrams": masked_scores(ngrams.from_nothing, passages),
        }

    tests = {"brown": _passages(tokenizer, documents.test, []), "mails": _passages(tokenizer, [], mails.test)}
    return {
        **{name: {who: asdict(s) for who, s in scores(passages).items()} for name, passages in tests.items()},
        "examples": [{"text": text, "fillings": likeliest(model, tokenizer, text)} for text in _EXAMPLES],
    }


@torch.inference_mode()
def likeliest(model: RobertaPreLayerNormForMaskedLM, tokenizer: Tokenizer, text: str) -> dict[str, float]:
    """Return the likeliest tokens for the text's mask with their probabilities, best first."""
    input_ids = torch.tensor(tokenizer.encode(text).ids)
    (mask,) = (input_ids == MASK_ID).nonzero()
    best = model(input_ids[None]).logits[0, mask.item()].softmax(-1).topk(_FILLINGS)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {tokenizer.decode([token]).strip(): probability for token, probability in pairs}


SCRIPT: Final = Script(
    makes="the checkpoint for fill-mask",
    task="fill-mask",
    card="masked_lm.md",
    epochs=3,
    read=_read,
    prepare=_setup,
    score=scores_of_saved,
    headline=lambda metrics: f"{metrics['brown']['model']['accuracy']:.4f} of the masked tokens of test files found",
)

if __name__ == "__main__":
    run(SCRIPT)
