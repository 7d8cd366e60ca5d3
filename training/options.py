"""What the training scripts are told on their command line."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The folder of the corpora, the one for the checkpoint, and how often the training data are gone through."""

    data: Path
    output: Path
    epochs: int


def parse_options(description: str, *, output: str, epochs: int) -> Options:
    """Read the command line; `output` is a folder of the project."""
    parser = data_parser(description)
    parser.add_argument("--output", type=Path, metavar="FOLDER", default=ROOT / output)
    parser.add_argument("--epochs", type=int, metavar="N", default=epochs)
    given = parser.parse_args()
    return Options(data=given.data, output=given.output, epochs=given.epochs)


def data_parser(description: str) -> argparse.ArgumentParser:
    """A parser that knows where the corpora are."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=ROOT / "data",
        help="where the corpora are, or are fetched to with npm (default: data, in the project)",
    )
    return parser
