"""Make the default checkpoint: a part-of-speech tagger trained on the Brown corpus.

    python -m training.train_pos_tagger [--data FOLDER] [--output FOLDER] [--epochs N]

See training/README.md.
"""

import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer
from torch import Tensor
from transformers import RobertaPreLayerNormConfig

from rpln_model import RobertaPreLayerNormForTokenClassification
from training.batches import batches_by_length
from training.brown import Document
from training.corpora import brown_split
from training.evaluation import tagger_scores
from training.examples import TaggedExample, encode_texts, tagger_batch, texts_of, varied_texts
from training.local_attention import point_first_layer_at_neighbours
from training.loop import adamw
from training.networks import SHARED, table_sizes
from training.plain_text import Case, Style
from training.script import Script, Setup, run
from training.split import Split
from training.tags import TAGS
from training.tokenizer import train_tokenizer

_VOCABULARY_SIZE: Final = 7500
_MAX_LENGTH: Final = 256
_BATCH_TOKENS: Final = 2048
_PEAK_LEARNING_RATE: Final = 2e-3

_HEAD_OFFSETS: Final = (-1, 1, -2, 2)  # of the tokens that the heads of the first layer look at

_HEADLINE: Final = Style(case=Case.TITLE, final_stop=False)
_SENTENCES_A_PASSAGE: Final = 6  # most such passages fit the longest input, some fill it


def _setup(documents: Split[Document], rng: random.Random) -> Setup[list[TaggedExample]]:
    """Return the setup; every epoch cuts and writes the documents anew."""
    texts = (text.text for text in varied_texts(documents.train, rng=rng))
    tokenizer = train_tokenizer(texts, vocabulary_size=_VOCABULARY_SIZE)
    tokenizer.enable_truncation(_MAX_LENGTH)
    model = RobertaPreLayerNormForTokenClassification(_config(tokenizer))
    point_first_layer_at_neighbours(model.roberta_prelayernorm, offsets=_HEAD_OFFSETS)
    dev = encode_texts(tokenizer, texts_of(documents.dev))

    def batches_of_epoch() -> list[list[TaggedExample]]:
        examples = encode_texts(tokenizer, varied_texts(documents.train, rng=rng))
        return batches_by_length(examples, max_tokens=_BATCH_TOKENS, rng=rng)

    def loss_of(group: list[TaggedExample]) -> Tensor:
        loss: Tensor = model(**tagger_batch(group)).loss
        return loss

    return Setup(
        model=model,
        tokenizer=tokenizer,
        max_length=_MAX_LENGTH,
        optimizers=[adamw(model.parameters(), learning_rate=_PEAK_LEARNING_RATE)],
        batches_of_epoch=batches_of_epoch,
        loss_of=loss_of,
        after_epoch=lambda: f"{tagger_scores(model, dev).accuracy:.4f} of the dev words right",
        bfloat16=False,
    )


def _config(tokenizer: Tokenizer) -> RobertaPreLayerNormConfig:
    return RobertaPreLayerNormConfig(
        **SHARED,
        **table_sizes(tokenizer, max_length=_MAX_LENGTH),
        num_hidden_layers=4,
        intermediate_size=512,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: index for index, tag in enumerate(TAGS)},
    )


def scores_of_saved(folder: Path, tokenizer: Tokenizer, documents: Split[Document]) -> Mapping[str, Any]:
    """Return the scores of the checkpoint in `folder` on texts written in several ways."""
    model = RobertaPreLayerNormForTokenClassification.from_pretrained(folder)
    texts = {
        "dev": texts_of(documents.dev),
        "test": texts_of(documents.test),
        "test_passages": texts_of(documents.test, sentences=_SENTENCES_A_PASSAGE),
        "test_typographic": texts_of(documents.test, style=Style(typographic=True)),
        "test_lower_case": texts_of(documents.test, style=Style(case=Case.LOWER, final_stop=False)),
        "test_headlines": texts_of(documents.test, style=_HEADLINE),
    }
    return {name: asdict(tagger_scores(model, encode_texts(tokenizer, written))) for name, written in texts.items()}


SCRIPT: Final = Script(
    makes="the default checkpoint, a part-of-speech tagger",
    task="token-classification",
    card="pos_tagger.md",
    epochs=5,
    read=brown_split,
    prepare=_setup,
    score=scores_of_saved,
    headline=lambda metrics: f"{metrics['test']['accuracy']:.4f} of {metrics['test']['words']:,} test words right",
)

if __name__ == "__main__":
    run(SCRIPT)
