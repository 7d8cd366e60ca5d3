"""Make the embedded text classifier: it tells spam from ham, and was trained on the SpamAssassin mail corpus.

    python -m training.train_spam_filter [--data FOLDER] [--output FOLDER] [--epochs N]

It starts from the fill-mask checkpoint. See training/README.md.
"""

import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rpln_model import RobertaPreLayerNormForSequenceClassification
from training.batches import batches_by_length
from training.corpora import mail_split
from training.encoder import (
    CHECKPOINTS,
    MAX_LENGTH,
    PRETRAINED,
    pretrained_tokenizer,
    save_encoder,
    training_record,
)
from training.loop import muon_and_adamw, train
from training.mails import Mail
from training.model_card import write_spam_filter_card
from training.naive_bayes import NaiveBayes
from training.options import parse_options
from training.spam import (
    LABELS,
    Beginning,
    baseline_scores,
    batch_from_beginnings,
    beginnings_of,
    network_scores,
    partly_cut,
)
from training.split import Split
from training.tokenizer import write_json

_OUTPUT: Final = f"{CHECKPOINTS}/text-classification"

_SEED: Final = 20
_EPOCHS: Final = 3
_BATCH_TOKENS: Final = 2048
_MATRIX_RATE: Final = 5e-3
_OTHER_RATE: Final = 1e-3
_DROPOUT: Final = 0.1

_SCORED_LENGTHS: Final = {"test": MAX_LENGTH, "test_of_32_tokens": 32}

_EXAMPLES: Final = (
    "Congratulations! You have won a free cruise. Click here to claim your prize now, 100% risk free.",
    "Lose weight fast! Order today and save 50% on all products.",
    "The patch fixes the crash, but the tests still fail on my machine. Any ideas?",
    "Hi Bob, are we still meeting for lunch tomorrow?",
)


def main() -> None:
    """Train, save, and report what the saved checkpoint says of mails that had no part in it."""
    options = parse_options("Train the embedded mail filter.", output=_OUTPUT, epochs=_EPOCHS)
    torch.manual_seed(_SEED)
    torch.set_num_threads(1)
    started = time.process_time()
    mails, tokenizer = mail_split(options.data), pretrained_tokenizer()
    model = RobertaPreLayerNormForSequenceClassification.from_pretrained(
        PRETRAINED,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        hidden_dropout_prob=_DROPOUT,
    )
    steps = _train(model, tokenizer, mails, rng=random.Random(_SEED), epochs=options.epochs)

    folder = options.output
    record = training_record(model, seed=_SEED, epochs=options.epochs, steps=steps, started=started)
    save_encoder(model, tokenizer, folder)
    metrics = {"training": {**record, "mails": len(mails.train)}, **report_on_saved(folder, tokenizer, mails)}
    write_json(folder / "metrics.json", metrics)
    write_spam_filter_card(folder, metrics)
    print(f"{folder}: F1 {metrics['test']['model']['f1']:.4f} of spam, {metrics['test']['naive Bayes']['f1']:.4f}")


def report_on_saved(folder: Path, tokenizer: Tokenizer, mails: Split[Mail]) -> dict[str, Any]:
    """Score the checkpoint as a user loads it, from the file's fp16 weights, computing in fp32, and the baseline."""
    model = RobertaPreLayerNormForSequenceClassification.from_pretrained(folder)
    report: dict[str, Any] = {}
    for name, length in _SCORED_LENGTHS.items():
        bayes = NaiveBayes(
            beginnings_of(tokenizer, mails.train, length=length), vocabulary_size=tokenizer.get_vocab_size()
        )
        test = beginnings_of(tokenizer, mails.test, length=length)
        scores = {"model": network_scores(model, test), "naive Bayes": baseline_scores(bayes.says_spam, test)}
        report[name] = {who: asdict(score) for who, score in scores.items()}
    return {
        **report,
        "examples": [{"text": text, "spam": spam_probability(model, tokenizer, text)} for text in _EXAMPLES],
    }


@torch.inference_mode()
def spam_probability(model: RobertaPreLayerNormForSequenceClassification, tokenizer: Tokenizer, text: str) -> float:
    """Return what the model, in eval mode, says of a short text."""
    logits: Tensor = model(torch.tensor([tokenizer.encode(text).ids])).logits
    return float(logits.softmax(-1)[0, LABELS.index("spam")])


def _train(
    model: RobertaPreLayerNormForSequenceClassification,
    tokenizer: Tokenizer,
    mails: Split[Mail],
    *,
    rng: random.Random,
    epochs: int,
) -> int:
    """Return the number of steps. Every epoch cuts the mails anew."""
    beginnings, dev = (beginnings_of(tokenizer, side) for side in (mails.train, mails.dev))

    def loss_of(group: list[Beginning]) -> Tensor:
        batch = batch_from_beginnings(group)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # the weights stay in fp32
            loss: Tensor = model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
            ).loss
        return loss

    return train(
        model,
        epochs=epochs,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=lambda: batches_by_length(partly_cut(beginnings, rng=rng), max_tokens=_BATCH_TOKENS, rng=rng),
        loss_of=loss_of,
        after_epoch=lambda: f"F1 {network_scores(model, dev).f1:.4f} of spam in dev mails",
    )


if __name__ == "__main__":
    main()
