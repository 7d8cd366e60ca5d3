"""The options of commands that read a checkpoint: what it does, and where its parts are."""

from pathlib import Path

import click
import cloup

from rpln_export.commands import table_option
from rpln_export.commands.table_option import TableOption

_PATH = click.Path(path_type=Path)

task_option = cloup.option(
    "--task",
    cls=TableOption,
    rows=table_option.tasks,
    help="What the checkpoint does: {rows}. [default: the task of the architecture in its config]",
)
revision_option = cloup.option("--revision", help="The branch, tag or commit of a hub id.")
is_decoder_option = cloup.option(
    "--is-decoder", is_flag=True, help="Read the checkpoint as a decoder (causal LM), whatever its config says."
)

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
