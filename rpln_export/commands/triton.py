"""`rpln triton`: a bundle as a model repository of Triton."""

from collections.abc import Sequence
from pathlib import Path

import click

from rpln_export.commands.user_errors import user_errors


@click.command("triton")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The model repository to write.")
@click.option("--name", help="What clients ask for. [default: the bundle's folder]")
@click.option("--batch-size", type=int, help="The most rows the model takes at a time. [default: 32; 8 of generators]")
@click.option("--buckets", help="Lengths that rows are padded to, as 32,64,128. [default: powers of two]")
@click.option("--option", "options", multiple=True, help="NAME=VALUE of the task, for requests that bring none.")
@click.option(
    "--engine", help="A TensorRT engine of the bundle, by its file's name without .plan. [default: the graph]"
)
@click.option("--check", is_flag=True, help="Check the repository in FOLDER instead of writing one.")
def triton_command(
    folder: Path,
    output: Path | None,
    name: str | None,
    batch_size: int | None,
    buckets: str | None,
    options: Sequence[str],
    engine: str | None,
    check: bool,
) -> None:
    """Write the bundle in FOLDER as a model repository for Triton Inference Server, or --check one.

    \b
    rpln triton tagger -o repository --name tagger
    rpln triton repository --check
    """
    with user_errors():
        from rpln_runtime.triton import command

        if check == (output is not None):
            raise click.UsageError("give either -o REPOSITORY, to write one, or --check.")
        if output is None:
            click.echo(command.check(folder))
        else:
            done = command.write(
                folder, output, name=name, batch_size=batch_size, buckets=buckets, options=options, engine=engine
            )
            click.echo(done)
