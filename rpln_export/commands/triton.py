"""`rpln triton`: write a bundle as a model repository of Triton Inference Server."""

from collections.abc import Sequence
from pathlib import Path

import click
import cloup

from rpln_export.commands.settings import HELP
from rpln_export.commands.user_errors import user_errors


@cloup.command("triton", context_settings=HELP, short_help="Write a bundle as a Triton model repository.")
@cloup.argument(
    "folder", type=click.Path(path_type=Path), help="The folder of the bundle; with --check, of the repository."
)
@cloup.option("-o", "--output", type=click.Path(path_type=Path), help="The model repository to write.")
@cloup.option("--name", help="The name of the model that clients ask for. [default: the name of FOLDER]")
@cloup.option(
    "--batch-size", type=int, help="The most rows in a batch of the model. [default: 32; 8 where text is generated]"
)
@cloup.option(
    "--buckets", help="The lengths in tokens that rows are padded to, separated by commas. [default: powers of two]"
)
@cloup.option(
    "--max-text-bytes",
    type=int,
    help="The most bytes that the texts and options of a request have together. [default: 16 for each token of the "
    "rows that the model takes at a time, and at least 65,536]",
)
@cloup.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="The value of an option of the task for requests that do not set it. Give it again for another option.",
)
@cloup.option(
    "--engine", help="The TensorRT engine to serve, by the name of its file without .plan. [default: the ONNX graph]"
)
@cloup.option(
    "--check",
    is_flag=True,
    help="Instead of writing a repository, compare the one in FOLDER with what was written, and list all differences "
    "but those that operators may make.",
)
def triton_command(
    folder: Path,
    output: Path | None,
    name: str | None,
    batch_size: int | None,
    buckets: str | None,
    max_text_bytes: int | None,
    options: Sequence[str],
    engine: str | None,
    check: bool,
) -> None:
    """Write the bundle in FOLDER as a model repository for Triton Inference Server, or check a repository.

    \b
    rpln triton tagger -o repository --name tagger
    rpln triton repository --check
    """
    with user_errors():
        from rpln_export.commands.show.progress import ProgressWatcher

        if check == (output is not None):
            raise click.UsageError("give either -o REPOSITORY to write a repository, or --check to check one.")
        with ProgressWatcher("writing" if output else "checking"):
            from rpln_runtime.triton import command

            others = {
                "name": name,
                "batch_size": batch_size,
                "buckets": buckets,
                "max_text_bytes": max_text_bytes,
                "option": options,
                "engine": engine,
            }
            if check and (reason := command.idle_with_check(others)):
                raise click.UsageError(reason)
            done = (
                command.check(folder)
                if output is None
                else command.write(
                    folder,
                    output,
                    name=name,
                    batch_size=batch_size,
                    buckets=buckets,
                    max_text_bytes=max_text_bytes,
                    options=options,
                    engine=engine,
                )
            )
        click.echo(done)
