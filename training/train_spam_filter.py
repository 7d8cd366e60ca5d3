"""Make the checkpoint for text classification: it tells spam from ham, and is trained on the SpamAssassin mails.

    python -m training.train_spam_filter [--data FOLDER] [--output FOLDER] [--epochs N]

It starts from the fill-mask checkpoint. See training/README.md.
"""

import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rpln_model import RobertaPreLayerNormForSequenceClassification
from training.batches import batches_by_length
from training.corpora import mail_split
from training.loop import muon_and_adamw
from training.mails import Mail
from training.naive_bayes import NaiveBayes
from training.networks import ENCODER_LENGTH, PRETRAINED, pretrained_tokenizer
from training.script import Script, Setup, run
from training.spam import (
    LABELS,
    Beginning,
    baseline_filter_scores,
    beginnings_of,
    filter_batch,
    filter_scores,
    partly_cut,
)
from training.split import Split

_BATCH_TOKENS: Final = 2048
_MATRIX_RATE: Final = 5e-3
_OTHER_RATE: Final = 1e-3
_DROPOUT: Final = 0.1

_SCORED_LENGTHS: Final = {"test": ENCODER_LENGTH, "test_of_32_tokens": 32}

_EXAMPLES: Final = (
    "Congratulations! You have won a free cruise. Click here to claim your prize now, 100% risk free.",
    "Lose weight fast! Order today and save 50% on all products.",
    "The patch fixes the crash, but the tests still fail on my machine. Any ideas?",
    "Hi Bob, are we still meeting for lunch tomorrow?",
)


def _setup(mails: Split[Mail], rng: random.Random) -> Setup[list[Beginning]]:
    """Return the setup; every epoch cuts the mails anew."""
    tokenizer = pretrained_tokenizer()
    model = RobertaPreLayerNormForSequenceClassification.from_pretrained(
        PRETRAINED,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        hidden_dropout_prob=_DROPOUT,
    )
    beginnings, dev = (beginnings_of(tokenizer, side) for side in (mails.train, mails.dev))

    def loss_of(group: list[Beginning]) -> Tensor:
        loss: Tensor = model(**filter_batch(group)).loss
        return loss

    return Setup(
        model=model,
        tokenizer=tokenizer,
        max_length=ENCODER_LENGTH,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=lambda: batches_by_length(partly_cut(beginnings, rng=rng), max_tokens=_BATCH_TOKENS, rng=rng),
        loss_of=loss_of,
        after_epoch=lambda: f"F1 {filter_scores(model, dev).f1:.4f} of spam in dev mails",
        facts={"mails": len(mails.train)},
    )


def scores_of_saved(folder: Path, tokenizer: Tokenizer, mails: Split[Mail]) -> Mapping[str, Any]:
    """Return the scores of the checkpoint in `folder` and of the baseline, and texts with their probability of spam."""
    model = RobertaPreLayerNormForSequenceClassification.from_pretrained(folder)
    report: dict[str, Any] = {}
    for name, length in _SCORED_LENGTHS.items():
        training = beginnings_of(tokenizer, mails.train, length=length)
        bayes = NaiveBayes(training, vocabulary_size=tokenizer.get_vocab_size())
        test = beginnings_of(tokenizer, mails.test, length=length)
        scores = {"model": filter_scores(model, test), "naive Bayes": baseline_filter_scores(bayes.says_spam, test)}
        report[name] = {who: asdict(score) for who, score in scores.items()}
    examples = [{"text": text, "spam": spam_probability(model, tokenizer, text)} for text in _EXAMPLES]
    return {**report, "examples": examples}


@torch.inference_mode()
def spam_probability(model: RobertaPreLayerNormForSequenceClassification, tokenizer: Tokenizer, text: str) -> float:
    """Return the probability of spam that the model, in eval mode, gives a short text."""
    logits: Tensor = model(torch.tensor([tokenizer.encode(text).ids])).logits
    return float(logits.softmax(-1)[0, LABELS.index("spam")])


SCRIPT: Final = Script(
    makes="the checkpoint for text classification, a mail filter",
    task="text-classification",
    card="spam_filter.md",
    epochs=3,
    read=mail_split,
    prepare=_setup,
    score=scores_of_saved,
    headline=lambda metrics: (
        f"F1 {metrics['test']['model']['f1']:.4f} of spam, naive Bayes {metrics['test']['naive Bayes']['f1']:.4f}"
    ),
)

if __name__ == "__main__":
    run(SCRIPT)
