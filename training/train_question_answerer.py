"""Make the checkpoint for question answering: it finds the answer in a context, and is trained on the Brown corpus.

    python -m training.train_question_answerer [--data FOLDER] [--output FOLDER] [--epochs N]

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

from rpln_model import RobertaPreLayerNormForQuestionAnswering
from training.batches import batches_by_length
from training.brown import Document
from training.corpora import brown_split
from training.examples import texts_of
from training.loop import muon_and_adamw
from training.networks import ENCODER_LENGTH, PRETRAINED, pretrained_tokenizer
from training.questions import Question, questions_of
from training.script import SEED, Script, Setup, run
from training.spans import (
    EncodedQuestion,
    WordsBeside,
    answerer_batch,
    answerer_scores,
    baseline_answerer_scores,
    best_answer,
    encode_questions,
)
from training.split import Split
from training.word_weights import TfIdf

_BATCH_TOKENS: Final = 4096
_MATRIX_RATE: Final = 0.01
_OTHER_RATE: Final = 2e-3
_ANSWER_WORDS: Final = 2  # of the baseline; most answers have as many

_CONTEXT: Final = (
    "The storm came in the night. The old man walked to the boat, and his crew watched the stars. Seven ships had left "
    "the harbor in the morning. Mrs. Fisk waited for her sister in the church."
)
_QUESTIONS: Final = (
    "Who walked to the boat?",
    "his crew watched what?",
    "How many ships had left the harbor?",
    "Mrs. Fisk waited for who?",
)


def _setup(documents: Split[Document], rng: random.Random) -> Setup[list[EncodedQuestion]]:
    """Return the setup; every epoch draws other questions and contexts."""
    tokenizer = pretrained_tokenizer()
    model = RobertaPreLayerNormForQuestionAnswering.from_pretrained(PRETRAINED)
    dev = encode_questions(tokenizer, questions_of(documents.dev, rng=random.Random(SEED)))

    def batches_of_epoch() -> list[list[EncodedQuestion]]:
        questions = encode_questions(tokenizer, questions_of(documents.train, rng=rng))
        return batches_by_length(questions, max_tokens=_BATCH_TOKENS, rng=rng)

    def loss_of(group: list[EncodedQuestion]) -> Tensor:
        loss: Tensor = model(**answerer_batch(group)).loss
        return loss

    return Setup(
        model=model,
        tokenizer=tokenizer,
        max_length=ENCODER_LENGTH,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=batches_of_epoch,
        loss_of=loss_of,
        after_epoch=lambda: f"{answerer_scores(model, dev).exact:.4f} of the dev questions answered exactly",
    )


def scores_of_saved(folder: Path, tokenizer: Tokenizer, documents: Split[Document]) -> Mapping[str, Any]:
    """Return the scores of the checkpoint in `folder` and of the baseline, and questions that it answers."""
    model = RobertaPreLayerNormForQuestionAnswering.from_pretrained(folder)
    questions = encode_questions(tokenizer, questions_of(documents.test, rng=random.Random(SEED)))
    baseline = WordsBeside(TfIdf([text.text for text in texts_of(documents.train)]), answer_words=_ANSWER_WORDS)
    test = {
        "model": asdict(answerer_scores(model, questions)),
        "words beside": asdict(baseline_answerer_scores(baseline, [one.question for one in questions])),
    }
    examples = [
        {"context": _CONTEXT, "question": question, "answer": answer_to(model, tokenizer, question, _CONTEXT)}
        for question in _QUESTIONS
    ]
    return {"test": test, "examples": examples}


@torch.inference_mode()
def answer_to(model: RobertaPreLayerNormForQuestionAnswering, tokenizer: Tokenizer, question: str, context: str) -> str:
    """Return the answer that the model, in eval mode, finds in the context."""
    (asked,) = encode_questions(tokenizer, [Question(question=question, context=context, start=0, end=len(context))])
    outputs = model(torch.tensor([asked.token_ids]))
    return best_answer(asked, outputs.start_logits[0], outputs.end_logits[0])


SCRIPT: Final = Script(
    makes="the checkpoint for question answering",
    task="question-answering",
    card="question_answerer.md",
    epochs=2,
    read=brown_split,
    prepare=_setup,
    score=scores_of_saved,
    headline=lambda metrics: f"{metrics['test']['model']['exact']:.4f} of the test questions answered exactly",
)

if __name__ == "__main__":
    run(SCRIPT)
