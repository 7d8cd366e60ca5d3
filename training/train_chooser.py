"""Make the checkpoint for multiple choice: it tells how a text goes on, and is trained on the Brown corpus.

    python -m training.train_chooser [--data FOLDER] [--output FOLDER] [--epochs N]

It starts from the fill-mask checkpoint. See training/README.md.
"""

import random
from collections.abc import Callable, Mapping, Sequence
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
    chooser_accuracy,
    chooser_batch,
    chooser_inputs,
    encode_items,
    next_sentences,
    sentence_ends,
)
from training.corpora import brown_split
from training.examples import texts_of
from training.loop import muon_and_adamw
from training.networks import ENCODER_LENGTH, PRETRAINED, pretrained_tokenizer
from training.script import SEED, Script, Setup, run
from training.split import Split
from training.word_weights import TfIdf

_ITEMS_OF_EPOCH: Final = 8_000  # of each kind
_DEV_ITEMS: Final = 1_000  # of each kind
_BATCH_TOKENS: Final = 4096
_MATRIX_RATE: Final = 0.01
_OTHER_RATE: Final = 2e-3

_Maker = Callable[..., list[Item]]
_KINDS: Final[dict[str, _Maker]] = {"ends": sentence_ends, "next sentences": next_sentences}

_EXAMPLES: Final = 4


def _setup(documents: Split[Document], rng: random.Random) -> Setup[list[EncodedItem]]:
    """Return the setup; every epoch cuts other sentences, and draws other wrong choices."""
    tokenizer = pretrained_tokenizer()
    model = RobertaPreLayerNormForMultipleChoice.from_pretrained(PRETRAINED)
    dev = {kind: make(documents.dev, rng=random.Random(SEED)) for kind, make in _KINDS.items()}
    encoded_dev = {kind: _encode(tokenizer, rng.sample(items, _DEV_ITEMS)) for kind, items in dev.items()}

    def batches_of_epoch() -> list[list[EncodedItem]]:
        items = [
            item for make in _KINDS.values() for item in rng.sample(make(documents.train, rng=rng), _ITEMS_OF_EPOCH)
        ]
        return batches_by_length(_encode(tokenizer, items), max_tokens=_BATCH_TOKENS, rng=rng)

    def loss_of(group: list[EncodedItem]) -> Tensor:
        loss: Tensor = model(**chooser_batch(group)).loss
        return loss

    def dev_accuracies() -> str:
        return ", ".join(f"{chooser_accuracy(model, items):.3f} of {kind}" for kind, items in encoded_dev.items())

    return Setup(
        model=model,
        tokenizer=tokenizer,
        max_length=ENCODER_LENGTH,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=batches_of_epoch,
        loss_of=loss_of,
        after_epoch=dev_accuracies,
        facts={"items_of_epoch": len(_KINDS) * _ITEMS_OF_EPOCH},
    )


def _encode(tokenizer: Tokenizer, items: Sequence[Item]) -> list[EncodedItem]:
    return encode_items(tokenizer, items, max_length=ENCODER_LENGTH)


def scores_of_saved(folder: Path, tokenizer: Tokenizer, documents: Split[Document]) -> Mapping[str, Any]:
    """Return the accuracies of the checkpoint in `folder` and of the baseline, and items that it decides."""
    model = RobertaPreLayerNormForMultipleChoice.from_pretrained(folder)
    tf_idf = TfIdf([text.text for text in texts_of(documents.train)])
    report: dict[str, Any] = {}
    for kind, make in _KINDS.items():
        items = make(documents.test, rng=random.Random(SEED))
        report[kind] = {
            "items": len(items),
            "model": chooser_accuracy(model, _encode(tokenizer, items)),
            "tf-idf": baseline_accuracy(tf_idf.likeness, items),
        }
    ends = sentence_ends(documents.test, rng=random.Random(SEED))
    examples = [
        {**asdict(item), "probabilities": probabilities_of(model, tokenizer, item)}
        for item in ends[len(ends) // _EXAMPLES // 2 :: len(ends) // _EXAMPLES]
    ]
    return {"test": report, "examples": examples}


@torch.inference_mode()
def probabilities_of(model: RobertaPreLayerNormForMultipleChoice, tokenizer: Tokenizer, item: Item) -> list[float]:
    """Return the probabilities that the model, in eval mode, gives an item's choices."""
    logits: Tensor = model(**chooser_inputs(_encode(tokenizer, [item]))).logits
    probabilities: list[float] = logits.softmax(-1)[0].tolist()
    return probabilities


SCRIPT: Final = Script(
    makes="the checkpoint for multiple choice",
    task="multiple-choice",
    card="chooser.md",
    epochs=4,
    read=brown_split,
    prepare=_setup,
    score=scores_of_saved,
    headline=lambda metrics: ", ".join(f"{scores['model']:.4f} of {kind}" for kind, scores in metrics["test"].items()),
)

if __name__ == "__main__":
    run(SCRIPT)
