"""The options of commands that read checkpoints of fairseq."""

from collections.abc import Callable
from pathlib import Path

import click


def fairseq_options(command: Callable[..., None]) -> Callable[..., None]:
    """--dict and --bpe, the files of a fairseq vocabulary."""
    path = click.Path(path_type=Path)
    bpe = click.option("--bpe", type=(path, path), help="Of fairseq: encoder.json and vocab.bpe.")
    dictionary = click.option("--dict", "dictionary", type=path, help="Of fairseq: dict.txt, with --bpe.")
    return dictionary(bpe(command))
