"""`rpln convert`: a foreign checkpoint as transformers loads it."""

from pathlib import Path

import click

from rpln_export.commands.fairseq_options import fairseq_options
from rpln_export.commands.user_errors import user_errors


@click.command("convert")
@click.argument("checkpoint")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--task", help="Whose head to take, where there are several. [default: what it was trained for]")
@fairseq_options
@click.option("--revision", help="Branch, tag or commit of a hub id.")
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
        from rpln_export.checkpoint.conversion import convert, vocabulary_from_options

        vocabulary = vocabulary_from_options(dictionary, bpe)
        convert(checkpoint, output, task=task, revision=revision, vocabulary=vocabulary)
        click.echo(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
