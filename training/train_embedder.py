"""Make the embedded feature extractor: texts of one genre get like vectors; it was trained on the Brown corpus.

    python -m training.train_embedder [--data FOLDER] [--output FOLDER] [--epochs N]

It starts from the fill-mask checkpoint. See training/README.md.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rpln_model import RobertaPreLayerNormModel
from training.batches import batches_by_length
from training.brown import Document
from training.corpora import brown_split
from training.encoder import CHECKPOINTS, PRETRAINED, pretrained_tokenizer, save_encoder, training_record
from training.examples import texts_of
from training.genres import (
    EncodedPassage,
    GenreVectors,
    Passage,
    drawn_passages,
    encode_passages,
    likeness_by_network,
    likeness_by_words,
    nearest_alike,
    passages_of,
)
from training.loop import muon_and_adamw, train
from training.model_card import write_embedder_card
from training.options import parse_options
from training.split import Split
from training.tokenizer import write_json
from training.word_weights import TfIdf

_OUTPUT: Final = f"{CHECKPOINTS}/feature-extraction"

_SEED: Final = 20
_EPOCHS: Final = 2
_BATCH_TOKENS: Final = 4096
_MATRIX_RATE: Final = 5e-3
_OTHER_RATE: Final = 1e-3
_DROPOUT: Final = 0.1
_SENTENCES: Final = 6  # of a passage, when scoring

_TRAITS: Final[dict[str, Callable[[Passage], str]]] = {
    "kind": lambda passage: passage.kind,
    "genre": lambda passage: passage.genre,
}
_EXAMPLES: Final = (
    ("adventure", "He drew his gun and ran to the horses. The shot had come from behind the barn."),
    ("romance", '"Don\'t go," she said. He stood at the door and looked at her for a long time.'),
    ("government", "The tax shall be paid by the employer to the State within the fiscal year."),
    ("learned", "The rate of the reaction was measured as a function of the temperature of the solution."),
)


def main() -> None:
    """Train, save, and report how near the saved checkpoint puts passages of files that had no part in it."""
    options = parse_options("Train the embedded feature extractor.", output=_OUTPUT, epochs=_EPOCHS)
    torch.manual_seed(_SEED)
    torch.set_num_threads(1)
    started = time.process_time()
    documents, tokenizer = brown_split(options.data), pretrained_tokenizer()
    model = RobertaPreLayerNormModel.from_pretrained(PRETRAINED, hidden_dropout_prob=_DROPOUT, add_pooling_layer=False)
    steps = _train(model, tokenizer, documents, rng=random.Random(_SEED), epochs=options.epochs)

    folder = options.output
    record = training_record(model, seed=_SEED, epochs=options.epochs, steps=steps, started=started)
    save_encoder(model, tokenizer, folder)
    metrics = {"training": record, **report_on_saved(folder, tokenizer, documents)}
    write_json(folder / "metrics.json", metrics)
    write_embedder_card(folder, metrics)
    print(f"{folder}: {metrics['test']}")


def report_on_saved(folder: Path, tokenizer: Tokenizer, documents: Split[Document]) -> dict[str, Any]:
    """Score the checkpoint as a user loads it, from the file's fp16 weights, computing in fp32, and the baselines."""
    passages = passages_of(documents.test, sentences=_SENTENCES)
    encoded = encode_passages(tokenizer, passages, genres=_genres(documents))
    model, start = (
        RobertaPreLayerNormModel.from_pretrained(source, add_pooling_layer=False) for source in (folder, PRETRAINED)
    )
    likeness = {
        "model": likeness_by_network(model, encoded),
        "fill-mask model": likeness_by_network(start, encoded),
        "tf-idf": likeness_by_words(TfIdf([text.text for text in texts_of(documents.train)]), passages),
    }
    test = {}
    for name, trait in _TRAITS.items():
        found = {who: nearest_alike(table, passages, trait=trait) for who, table in likeness.items()}
        test[name] = {"passages": found["model"][0], **{who: share for who, (_, share) in found.items()}}
    examples = [Passage(text=text, document="", genre=genre) for genre, text in _EXAMPLES]
    cosines = likeness_by_network(model, encode_passages(tokenizer, examples, genres=_genres(documents)))
    return {"test": test, "examples": {"texts": [text for _, text in _EXAMPLES], "cosines": cosines.tolist()}}


def _train(
    model: RobertaPreLayerNormModel,
    tokenizer: Tokenizer,
    documents: Split[Document],
    *,
    rng: random.Random,
    epochs: int,
) -> int:
    """Return the number of steps. Every epoch cuts the documents anew."""
    genres = _genres(documents)
    dev = passages_of(documents.dev, sentences=_SENTENCES)
    encoded_dev = encode_passages(tokenizer, dev, genres=genres)
    trained = GenreVectors(model, genres=len(genres))

    def batches_of_epoch() -> list[list[EncodedPassage]]:
        passages = encode_passages(tokenizer, drawn_passages(documents.train, rng=rng), genres=genres)
        return batches_by_length(passages, max_tokens=_BATCH_TOKENS, rng=rng)

    def loss_of(group: list[EncodedPassage]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):  # the weights stay in fp32
            return trained.loss(group)

    return train(
        trained,
        epochs=epochs,
        optimizers=muon_and_adamw(trained, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=batches_of_epoch,
        loss_of=loss_of,
        after_epoch=lambda: (
            f"{nearest_alike(likeness_by_network(model, encoded_dev), dev, trait=_TRAITS['genre'])[1]:.4f} of the dev "
            "passages are nearest to one of their genre"
        ),
    )


def _genres(documents: Split[Document]) -> list[str]:
    return sorted({document.genre for document in documents.train})


if __name__ == "__main__":
    main()
