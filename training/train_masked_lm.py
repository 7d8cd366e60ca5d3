"""Make the embedded fill-mask model, from which the other small encoders start.

    python -m training.train_masked_lm [--data FOLDER] [--output FOLDER] [--epochs N]

See training/README.md.
"""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rpln_model import RobertaPreLayerNormForMaskedLM
from rpln_model.layers import Layer
from training.batches import batches_by_length
from training.brown import Document
from training.corpora import brown_split, mail_split
from training.encoder import CHECKPOINTS, MAX_LENGTH, encoder_config, save_encoder, training_record
from training.examples import texts_of
from training.local_attention import (
    carry_what_is_looked_at,
    point_first_layer_at_neighbours,
    point_heads_at_same_tokens,
)
from training.loop import muon_and_adamw, train
from training.mails import Mail
from training.masked_scores import Neighbours, Scores, masked_scores, network_scores
from training.masking import document_streams, mail_streams, mask_by_chance, masked_loss, passages_of
from training.model_card import write_masked_lm_card
from training.options import parse_options
from training.split import Split
from training.tokenizer import MASK_ID, PAD_ID, train_tokenizer, write_json
from training.word_vectors import word_vectors

_OUTPUT: Final = f"{CHECKPOINTS}/fill-mask"

_SEED: Final = 20
_VOCABULARY_SIZE: Final = 3200
_EPOCHS: Final = 3
_BATCH_TOKENS: Final = 2048
_MATRIX_RATE: Final = 0.02
_OTHER_RATE: Final = 3e-3

_HEAD_OFFSETS: Final = (-1, 1, -2, 2)  # whom each head of the first layer looks at
_SAME_TOKEN_HEADS: Final = (0, 1)  # of the second layer

_FILLINGS: Final = 4
_EXAMPLES: Final = (
    "The old man walked <mask> the boat.",
    "She looked at <mask> and smiled.",
    "In the United <mask>, the president is elected.",
    "If you do not want to receive this newsletter, please <mask> here.",
)

_Passages = Sequence[Sequence[int]]


def main() -> None:
    """Train, save, and report which masked tokens the saved checkpoint finds in documents that had no part in it."""
    options = parse_options("Train the embedded fill-mask model.", output=_OUTPUT, epochs=_EPOCHS)
    torch.manual_seed(_SEED)
    rng = random.Random(_SEED)
    torch.set_num_threads(1)
    started = time.process_time()
    documents, mails = brown_split(options.data), mail_split(options.data)
    tokenizer = _tokenizer_for(documents.train, mails.train)
    model = RobertaPreLayerNormForMaskedLM(encoder_config(tokenizer.get_vocab_size()))
    _prepare(model, _passages(tokenizer, documents.train, mails.train))
    print(f"{model.num_parameters():,} parameters", flush=True)
    steps = _train(model, tokenizer, documents, mails, rng=rng, epochs=options.epochs)

    folder = options.output
    record = training_record(model, seed=_SEED, epochs=options.epochs, steps=steps, started=started)
    save_encoder(model, tokenizer, folder)
    metrics = {
        "training": {**record, "files": len(documents.train), "mails": len(mails.train)},
        **report_on_saved(folder, tokenizer, documents, mails),
    }
    write_json(folder / "metrics.json", metrics)
    write_masked_lm_card(folder, metrics)
    print(f"{folder}: {metrics['brown']['model']['accuracy']:.4f} of the masked tokens of test files found")


def report_on_saved(
    folder: Path, tokenizer: Tokenizer, documents: Split[Document], mails: Split[Mail]
) -> dict[str, Any]:
    """Score the checkpoint as a user loads it, from the file's fp16 weights, computing in fp32, and the baselines."""
    model = RobertaPreLayerNormForMaskedLM.from_pretrained(folder)
    ngrams = Neighbours(
        _passages(tokenizer, documents.train, mails.train),
        vocabulary_size=tokenizer.get_vocab_size(),
    )

    def scores(passages: _Passages) -> dict[str, Scores]:
        return {
            "model": network_scores(model, passages),
            "bigrams on both sides": masked_scores(ngrams.from_both_sides, passages),
            "bigrams": masked_scores(ngrams.from_before, passages),
            "unigrams": masked_scores(ngrams.from_nothing, passages),
        }

    tests = {
        "brown": _passages(tokenizer, documents.test, []),
        "mails": _passages(tokenizer, [], mails.test),
    }
    return {
        **{name: {who: asdict(s) for who, s in scores(passages).items()} for name, passages in tests.items()},
        "examples": [{"text": text, "fillings": likeliest(model, tokenizer, text)} for text in _EXAMPLES],
    }


@torch.inference_mode()
def likeliest(model: RobertaPreLayerNormForMaskedLM, tokenizer: Tokenizer, text: str) -> dict[str, float]:
    """Return the likeliest tokens for the text's mask and their probabilities, best first."""
    input_ids = torch.tensor(tokenizer.encode(text).ids)
    (mask,) = (input_ids == MASK_ID).nonzero()
    best = model(input_ids[None]).logits[0, mask.item()].softmax(-1).topk(_FILLINGS)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {tokenizer.decode([token]).strip(): probability for token, probability in pairs}


def _tokenizer_for(documents: Sequence[Document], mails: Sequence[Mail]) -> Tokenizer:
    texts = [text.text for text in texts_of(documents)]
    return train_tokenizer([*texts, *(mail.text for mail in mails)], vocabulary_size=_VOCABULARY_SIZE)


@torch.no_grad()
def _prepare(model: RobertaPreLayerNormForMaskedLM, passages: _Passages) -> None:
    """Let the model begin with what is known without training: how frequent tokens are, and what stands beside them."""
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


def _train(
    model: RobertaPreLayerNormForMaskedLM,
    tokenizer: Tokenizer,
    documents: Split[Document],
    mails: Split[Mail],
    *,
    rng: random.Random,
    epochs: int,
) -> int:
    """Return the number of steps."""
    streams = [*document_streams(tokenizer, documents.train), *mail_streams(tokenizer, mails.train)]
    passages = passages_of(streams, length=MAX_LENGTH)
    dev = _passages(tokenizer, documents.dev, mails.dev)

    def batches_of_epoch() -> list[list[list[int]]]:
        return batches_by_length(passages, max_tokens=_BATCH_TOKENS, rng=rng)

    def loss_of(group: list[list[int]]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):  # the weights stay in fp32
            return masked_loss(model, mask_by_chance(group))

    return train(
        model,
        epochs=epochs,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=batches_of_epoch,
        loss_of=loss_of,
        after_epoch=lambda: f"{network_scores(model, dev).accuracy:.4f} of the masked dev tokens found",
    )


def _passages(tokenizer: Tokenizer, documents: Iterable[Document], mails: Iterable[Mail]) -> list[list[int]]:
    return passages_of([*document_streams(tokenizer, documents), *mail_streams(tokenizer, mails)], length=MAX_LENGTH)


if __name__ == "__main__":
    main()
