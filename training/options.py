"""The command line of the training scripts, and where the project keeps corpora and checkpoints."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CHECKPOINTS: Final = ROOT / "rpln_export" / "default_checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The folder of the corpora, the folder of the checkpoint, and the number of epochs."""

    data: Path
    output: Path
    epochs: int


def parse_options(description: str, *, output: Path, epochs: int) -> Options:
    """Return what the command line says; `output` and `epochs` are the defaults."""
    parser = data_parser(description)
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", default=output, help=f"the checkpoint's folder (default: {output})"
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", default=epochs, help=f"the number of epochs (default: {epochs})"
    )
    given = parser.parse_args()
    return Options(data=given.data, output=given.output, epochs=given.epochs)


def data_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the option --data."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=ROOT / "data",
        help="the folder of the corpora, which are fetched into it with npm (default: data, in the project)",
    )
    return parser
