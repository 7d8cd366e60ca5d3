"""Make the embedded multiple-choice model: it tells how a text goes on, and was trained on the Brown corpus.

    python -m training.train_chooser [--data FOLDER] [--output FOLDER] [--epochs N]

It starts from the fill-mask checkpoint. See training/README.md.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rpln_model import RobertaPreLayerNormForMultipleChoice
from training.batches import batches_by_length
from training.brown import Document
from training.choices import (
    EncodedItem,
    Item,
    baseline_accuracy,
    batch_from_items,
    encode_items,
    network_accuracy,
    next_sentences,
    sentence_ends,
)
from training.corpora import brown_split
from training.encoder import CHECKPOINTS, MAX_LENGTH, PRETRAINED, pretrained_tokenizer, save_encoder, training_record
from training.examples import texts_of
from training.loop import muon_and_adamw, train
from training.model_card import write_chooser_card
from training.options import parse_options
from training.split import Split
from training.tokenizer import write_json
from training.word_weights import TfIdf

_OUTPUT: Final = f"{CHECKPOINTS}/multiple-choice"

_SEED: Final = 20
_EPOCHS: Final = 4
_ITEMS_OF_EPOCH: Final = 8_000  # of each kind
_DEV_ITEMS: Final = 1_000  # of each kind
_BATCH_TOKENS: Final = 4096
_MATRIX_RATE: Final = 0.01
_OTHER_RATE: Final = 2e-3

_Maker = Callable[..., list[Item]]
_KINDS: Final[dict[str, _Maker]] = {"ends": sentence_ends, "next sentences": next_sentences}

_EXAMPLES: Final = 4


def main() -> None:
    """Train, save, and report how often the saved checkpoint chooses rightly in files that had no part in it."""
    options = parse_options("Train the embedded multiple-choice model.", output=_OUTPUT, epochs=_EPOCHS)
    torch.manual_seed(_SEED)
    torch.set_num_threads(1)
    started = time.process_time()
    documents, tokenizer = brown_split(options.data), pretrained_tokenizer()
    model = RobertaPreLayerNormForMultipleChoice.from_pretrained(PRETRAINED)
    steps = _train(model, tokenizer, documents, rng=random.Random(_SEED), epochs=options.epochs)

    folder = options.output
    record = training_record(model, seed=_SEED, epochs=options.epochs, steps=steps, started=started)
    save_encoder(model, tokenizer, folder)
    metrics = {
        "training": {**record, "items": 2 * _ITEMS_OF_EPOCH * options.epochs},
        **report_on_saved(folder, tokenizer, documents),
    }
    write_json(folder / "metrics.json", metrics)
    write_chooser_card(folder, metrics)
    print(f"{folder}: {metrics['test']}")


def report_on_saved(folder: Path, tokenizer: Tokenizer, documents: Split[Document]) -> dict[str, Any]:
    """Score the checkpoint as a user loads it, from the file's fp16 weights, computing in fp32, and the baseline."""
    model = RobertaPreLayerNormForMultipleChoice.from_pretrained(folder)
    tf_idf = TfIdf([text.text for text in texts_of(documents.train)])
    report: dict[str, Any] = {}
    for kind, make in _KINDS.items():
        items = make(documents.test, rng=random.Random(_SEED))
        report[kind] = {
            "items": len(items),
            "model": network_accuracy(model, encode_items(tokenizer, items, max_length=MAX_LENGTH)),
            "tf-idf": baseline_accuracy(tf_idf.likeness, items),
        }
    ends = sentence_ends(documents.test, rng=random.Random(_SEED))
    examples = [
        {**asdict(item), "probabilities": probabilities_of(model, tokenizer, item)}
        for item in ends[len(ends) // _EXAMPLES // 2 :: len(ends) // _EXAMPLES]
    ]
    return {"test": report, "examples": examples}


@torch.inference_mode()
def probabilities_of(model: RobertaPreLayerNormForMultipleChoice, tokenizer: Tokenizer, item: Item) -> list[float]:
    """Return the probabilities of an item's choices; `model` is in eval mode."""
    batch = batch_from_items(encode_items(tokenizer, [item], max_length=MAX_LENGTH))
    logits: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    probabilities: list[float] = logits.softmax(-1)[0].tolist()
    return probabilities


def _train(
    model: RobertaPreLayerNormForMultipleChoice,
    tokenizer: Tokenizer,
    documents: Split[Document],
    *,
    rng: random.Random,
    epochs: int,
) -> int:
    """Return the number of steps. Every epoch cuts other sentences, and draws other wrong choices."""
    dev = {kind: make(documents.dev, rng=random.Random(_SEED)) for kind, make in _KINDS.items()}
    encoded_dev = {
        kind: encode_items(tokenizer, rng.sample(items, _DEV_ITEMS), max_length=MAX_LENGTH)
        for kind, items in dev.items()
    }

    def batches_of_epoch() -> list[list[EncodedItem]]:
        items = [
            item for make in _KINDS.values() for item in rng.sample(make(documents.train, rng=rng), _ITEMS_OF_EPOCH)
        ]
        encoded = encode_items(tokenizer, items, max_length=MAX_LENGTH)
        return batches_by_length(encoded, max_tokens=_BATCH_TOKENS, rng=rng)

    def loss_of(group: Sequence[EncodedItem]) -> Tensor:
        batch = batch_from_items(group)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # the weights stay in fp32
            loss: Tensor = model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.answers
            ).loss
        return loss

    def dev_accuracies() -> str:
        return ", ".join(f"{network_accuracy(model, items):.3f} of {kind}" for kind, items in encoded_dev.items())

    return train(
        model,
        epochs=epochs,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=batches_of_epoch,
        loss_of=loss_of,
        after_epoch=dev_accuracies,
    )


if __name__ == "__main__":
    main()
