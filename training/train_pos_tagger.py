"""Make the embedded default checkpoint: a part-of-speech tagger trained on the Brown corpus.

    python -m training.train_pos_tagger [--data FOLDER] [--output FOLDER] [--epochs N]

See training/README.md.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import RobertaPreLayerNormConfig

from rpln_model import RobertaPreLayerNormForTokenClassification
from training.batches import batches_by_length
from training.brown import Document
from training.corpora import brown_split
from training.evaluation import Scores, evaluate
from training.examples import Example, batch_from_examples, encode_texts, texts_of, varied_texts
from training.local_attention import point_first_layer_at_neighbours
from training.loop import adamw, train
from training.model_card import write_tagger_card
from training.options import parse_options
from training.plain_text import Case, Style, TaggedText
from training.split import Split
from training.tags import TAGS
from training.tokenizer import END_ID, PAD_ID, START_ID, save_tokenizer, train_tokenizer

_OUTPUT: Final = "rpln_export/default_checkpoints/token-classification"

_SEED: Final = 20
_VOCABULARY_SIZE: Final = 7500
_MAX_LENGTH: Final = 256  # tokens, <s> and </s> included
_EPOCHS: Final = 5
_BATCH_TOKENS: Final = 2048
_PEAK_LEARNING_RATE: Final = 2e-3

_HEAD_OFFSETS: Final = (-1, 1, -2, 2)  # whom each head of the first layer looks at

_HEADLINE: Final = Style(case=Case.TITLE, final_stop=False)
_SENTENCES_A_PASSAGE: Final = 6  # most fit the longest input, some fill it


def main() -> None:
    """Train, save, and report what the saved checkpoint scores on files that had no part in it."""
    options = parse_options("Train the embedded part-of-speech tagger.", output=_OUTPUT, epochs=_EPOCHS)
    torch.manual_seed(_SEED)
    rng = random.Random(_SEED)
    torch.set_num_threads(1)
    started = time.process_time()
    split = brown_split(options.data)
    tokenizer = _tokenizer_for(split.train, rng)
    model = RobertaPreLayerNormForTokenClassification(_config(tokenizer))
    point_first_layer_at_neighbours(model.roberta_prelayernorm, offsets=_HEAD_OFFSETS)
    print(f"{len(split.train)} files to train on, {model.num_parameters():,} parameters", flush=True)
    steps = _train(model, tokenizer, split, rng=rng, epochs=options.epochs)

    folder = options.output
    model.half().save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_length=_MAX_LENGTH)
    metrics = {
        "training": {
            "seed": _SEED,
            "epochs": options.epochs,
            "steps": steps,
            "parameters": model.num_parameters(),
            "cpu_minutes": round((time.process_time() - started) / 60, 1),
        },
        **{name: asdict(scores) for name, scores in _scores_of_saved(folder, tokenizer, split).items()},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    write_tagger_card(folder, metrics)
    print(f"{folder}: {metrics['test']['accuracy']:.4f} of {metrics['test']['words']:,} test words right")


def _tokenizer_for(documents: Sequence[Document], rng: random.Random) -> Tokenizer:
    texts = varied_texts(documents, rng=rng)
    tokenizer = train_tokenizer((text.text for text in texts), vocabulary_size=_VOCABULARY_SIZE)
    tokenizer.enable_truncation(_MAX_LENGTH)
    return tokenizer


def _config(tokenizer: Tokenizer) -> RobertaPreLayerNormConfig:
    return RobertaPreLayerNormConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=_MAX_LENGTH + PAD_ID + 1,  # positions are counted from PAD_ID + 1
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=START_ID,
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: index for index, tag in enumerate(TAGS)},
    )


def _train(
    model: RobertaPreLayerNormForTokenClassification,
    tokenizer: Tokenizer,
    split: Split[Document],
    *,
    rng: random.Random,
    epochs: int,
) -> int:
    """Return the number of steps. Every epoch cuts and writes the documents anew."""
    dev = encode_texts(tokenizer, texts_of(split.dev))

    def groups_of_epoch() -> list[list[Example]]:
        examples = encode_texts(tokenizer, varied_texts(split.train, rng=rng))
        return batches_by_length(examples, max_tokens=_BATCH_TOKENS, rng=rng)

    def loss_of(group: list[Example]) -> Tensor:
        batch = batch_from_examples(group)
        loss: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        return loss

    return train(
        model,
        epochs=epochs,
        optimizers=[adamw(model.parameters(), learning_rate=_PEAK_LEARNING_RATE)],
        batches_of_epoch=groups_of_epoch,
        loss_of=loss_of,
        after_epoch=lambda: f"{evaluate(model, dev).accuracy:.4f} of the dev words right",
    )


def _scores_of_saved(folder: Path, tokenizer: Tokenizer, split: Split[Document]) -> dict[str, Scores]:
    """Score the checkpoint as a user loads it: from the file's fp16 weights, computing in fp32."""
    model = RobertaPreLayerNormForTokenClassification.from_pretrained(folder)
    texts: dict[str, list[TaggedText]] = {
        "dev": texts_of(split.dev),
        "test": texts_of(split.test),
        "test_passages": texts_of(split.test, sentences=_SENTENCES_A_PASSAGE),
        "test_typographic": texts_of(split.test, style=Style(typographic=True)),
        "test_lower_case": texts_of(split.test, style=Style(case=Case.LOWER, final_stop=False)),
        "test_headlines": texts_of(split.test, style=_HEADLINE),
    }
    return {name: evaluate(model, encode_texts(tokenizer, written)) for name, written in texts.items()}


if __name__ == "__main__":
    main()
