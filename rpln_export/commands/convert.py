"""`rpln convert`: write a checkpoint of fairseq or DinkyTrain as transformers loads it."""

from pathlib import Path

import click
import cloup

from rpln_export.commands.checkpoint_options import fairseq_options, revision_option
from rpln_export.commands.settings import HELP
from rpln_export.commands.table_option import TableOption, tasks
from rpln_export.commands.user_errors import user_errors


@cloup.command("convert", context_settings=HELP, short_help="Convert a fairseq or DinkyTrain checkpoint.")
@cloup.argument("checkpoint", help="A .pt file of fairseq, or a folder or hub id of DinkyTrain.")
@cloup.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@cloup.option(
    "--task",
    cls=TableOption,
    rows=tasks,
    help="The task whose head is kept, where the checkpoint has several: {rows}. [default: what it was trained for]",
)
@fairseq_options
@revision_option
def convert_command(
    checkpoint: str,
    output: Path,
    task: str | None,
    dictionary: Path | None,
    bpe: tuple[Path, Path] | None,
    revision: str | None,
) -> None:
    """Write a CHECKPOINT of fairseq (a .pt file) or DinkyTrain (a folder) as a folder that transformers loads.

    \b
    rpln convert checkpoint_best.pt -o my-checkpoint --dict dict.txt --bpe encoder.json vocab.bpe
    """
    with user_errors(interrupted="Interrupted: nothing was written."):
        from rpln_export.commands.show.progress import ProgressWatcher

        with ProgressWatcher("converting"):
            from rpln_export.checkpoint.conversion import convert, vocabulary_from_options

            vocabulary = vocabulary_from_options(dictionary, bpe)
            convert(checkpoint, output, task=task, revision=revision, vocabulary=vocabulary)
        click.echo(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
