"""Make the embedded question answerer: it finds a span of a context, and was trained on the Brown corpus.

    python -m training.train_question_answerer [--data FOLDER] [--output FOLDER] [--epochs N]

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

from rpln_model import RobertaPreLayerNormForQuestionAnswering
from training.batches import batches_by_length
from training.brown import Document
from training.corpora import brown_split
from training.encoder import CHECKPOINTS, PRETRAINED, pretrained_tokenizer, save_encoder, training_record
from training.examples import texts_of
from training.loop import muon_and_adamw, train
from training.model_card import write_answerer_card
from training.options import parse_options
from training.questions import Question, questions_of
from training.spans import (
    Example,
    WordsBeside,
    baseline_scores,
    batch_from_examples,
    best_answer,
    encode_questions,
    network_scores,
)
from training.split import Split
from training.tokenizer import write_json
from training.word_weights import TfIdf

_OUTPUT: Final = f"{CHECKPOINTS}/question-answering"

_SEED: Final = 20
_EPOCHS: Final = 2
_BATCH_TOKENS: Final = 4096
_MATRIX_RATE: Final = 0.01
_OTHER_RATE: Final = 2e-3
_ANSWER_WORDS: Final = 2  # of the baseline: as most answers have

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


def main() -> None:
    """Train, save, and report what the saved checkpoint finds in files that had no part in it."""
    options = parse_options("Train the embedded question answerer.", output=_OUTPUT, epochs=_EPOCHS)
    torch.manual_seed(_SEED)
    torch.set_num_threads(1)
    started = time.process_time()
    documents, tokenizer = brown_split(options.data), pretrained_tokenizer()
    model = RobertaPreLayerNormForQuestionAnswering.from_pretrained(PRETRAINED)
    steps = _train(model, tokenizer, documents, rng=random.Random(_SEED), epochs=options.epochs)

    folder = options.output
    record = training_record(model, seed=_SEED, epochs=options.epochs, steps=steps, started=started)
    save_encoder(model, tokenizer, folder)
    metrics = {"training": record, **report_on_saved(folder, tokenizer, documents)}
    write_json(folder / "metrics.json", metrics)
    write_answerer_card(folder, metrics)
    print(f"{folder}: {metrics['test']}")


def report_on_saved(folder: Path, tokenizer: Tokenizer, documents: Split[Document]) -> dict[str, Any]:
    """Score the checkpoint as a user loads it, from the file's fp16 weights, computing in fp32, and the baseline."""
    model = RobertaPreLayerNormForQuestionAnswering.from_pretrained(folder)
    examples = encode_questions(tokenizer, questions_of(documents.test, rng=random.Random(_SEED)))
    tf_idf = TfIdf([text.text for text in texts_of(documents.train)])
    baseline = WordsBeside(tf_idf, answer_words=_ANSWER_WORDS)
    test = {
        "model": asdict(network_scores(model, examples)),
        "words beside": asdict(baseline_scores(baseline, [example.question for example in examples])),
    }
    answers = [
        {"context": _CONTEXT, "question": question, "answer": answer_to(model, tokenizer, question, _CONTEXT)}
        for question in _QUESTIONS
    ]
    return {"test": test, "examples": answers}


@torch.inference_mode()
def answer_to(model: RobertaPreLayerNormForQuestionAnswering, tokenizer: Tokenizer, question: str, context: str) -> str:
    """Return the best span of the context; `model` is in eval mode."""
    (example,) = encode_questions(tokenizer, [Question(question=question, context=context, start=0, end=len(context))])
    outputs = model(torch.tensor([example.token_ids]))
    return best_answer(example, outputs.start_logits[0], outputs.end_logits[0])


def _train(
    model: RobertaPreLayerNormForQuestionAnswering,
    tokenizer: Tokenizer,
    documents: Split[Document],
    *,
    rng: random.Random,
    epochs: int,
) -> int:
    """Return the number of steps. Every epoch draws other questions and contexts."""
    dev = encode_questions(tokenizer, questions_of(documents.dev, rng=random.Random(_SEED)))

    def batches_of_epoch() -> list[list[Example]]:
        examples = encode_questions(tokenizer, questions_of(documents.train, rng=rng))
        return batches_by_length(examples, max_tokens=_BATCH_TOKENS, rng=rng)

    def loss_of(group: list[Example]) -> Tensor:
        batch = batch_from_examples(group)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # the weights stay in fp32
            loss: Tensor = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                start_positions=batch.first,
                end_positions=batch.last,
            ).loss
        return loss

    return train(
        model,
        epochs=epochs,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=batches_of_epoch,
        loss_of=loss_of,
        after_epoch=lambda: f"{network_scores(model, dev).exact:.4f} of the dev questions answered exactly",
    )


if __name__ == "__main__":
    main()
