"""Make the checkpoint for feature extraction: similar vectors for texts of one genre, trained on the Brown corpus.

    python -m training.train_embedder [--data FOLDER] [--output FOLDER] [--epochs N]

It starts from the fill-mask checkpoint. See training/README.md.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from rpln_model import RobertaPreLayerNormModel
from training.batches import batches_by_length
from training.brown import Document
from training.corpora import brown_split
from training.examples import texts_of
from training.genres import (
    EncodedPassage,
    GenreVectors,
    Passage,
    encode_passages,
    equal_passages,
    likeness_by_network,
    likeness_by_words,
    nearest_alike,
    random_passages,
)
from training.loop import muon_and_adamw
from training.networks import ENCODER_LENGTH, PRETRAINED, pretrained_tokenizer
from training.script import Script, Setup, run
from training.split import Split
from training.word_weights import TfIdf

_BATCH_TOKENS: Final = 4096
_MATRIX_RATE: Final = 5e-3
_OTHER_RATE: Final = 1e-3
_DROPOUT: Final = 0.1
_SENTENCES: Final = 6  # of a passage that is scored

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


def _setup(documents: Split[Document], rng: random.Random) -> Setup[list[EncodedPassage]]:
    """Return the setup; every epoch cuts the documents anew."""
    tokenizer, genres = pretrained_tokenizer(), _genres(documents)
    model = RobertaPreLayerNormModel.from_pretrained(PRETRAINED, hidden_dropout_prob=_DROPOUT, add_pooling_layer=False)
    dev = equal_passages(documents.dev, sentences=_SENTENCES)
    encoded_dev = encode_passages(tokenizer, dev, genres=genres)
    trained = GenreVectors(model, genres=len(genres))

    def batches_of_epoch() -> list[list[EncodedPassage]]:
        passages = encode_passages(tokenizer, random_passages(documents.train, rng=rng), genres=genres)
        return batches_by_length(passages, max_tokens=_BATCH_TOKENS, rng=rng)

    def dev_share() -> str:
        _, share = nearest_alike(likeness_by_network(model, encoded_dev), dev, trait=_TRAITS["genre"])
        return f"{share:.4f} of the dev passages are nearest to one of their genre"

    return Setup(
        model=model,
        trained=trained,
        tokenizer=tokenizer,
        max_length=ENCODER_LENGTH,
        optimizers=muon_and_adamw(trained, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=batches_of_epoch,
        loss_of=trained.loss,
        after_epoch=dev_share,
    )


def scores_of_saved(folder: Path, tokenizer: Tokenizer, documents: Split[Document]) -> Mapping[str, Any]:
    """Return how often the nearest passage is of the same kind, by the checkpoint in `folder` and by the baselines.

    Besides, return a few texts and the cosines of their vectors.
    """
    passages = equal_passages(documents.test, sentences=_SENTENCES)
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


def _genres(documents: Split[Document]) -> list[str]:
    return sorted({document.genre for document in documents.train})


SCRIPT: Final = Script(
    makes="the checkpoint for feature extraction",
    task="feature-extraction",
    card="embedder.md",
    epochs=2,
    read=brown_split,
    prepare=_setup,
    score=scores_of_saved,
    headline=lambda metrics: f"{metrics['test']['kind']['model']:.4f} of the passages are nearest to one of their kind",
)

if __name__ == "__main__":
    run(SCRIPT)
