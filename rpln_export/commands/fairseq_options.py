"""The options of commands that read checkpoints of fairseq."""

from pathlib import Path

import click
import cloup

_PATH = click.Path(path_type=Path)

fairseq_options = cloup.option_group(
    "Checkpoints of fairseq",
    cloup.option("--dict", "dictionary", type=_PATH, metavar="DICT.TXT", help="The dictionary of the checkpoint."),
    cloup.option(
        "--bpe",
        type=(_PATH, _PATH),
        metavar="ENCODER.JSON VOCAB.BPE",
        help="The files of GPT-2's byte-level BPE, which go with --dict.",
    ),
)
"""The two options that name a fairseq vocabulary: --dict and --bpe."""
