"""`rpln batch`: a corpus through a bundle."""

from collections.abc import Sequence
from pathlib import Path

import click

from rpln_export.commands.user_errors import user_errors
from rpln_export.commands.values import pairs


@click.command("batch")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("source", metavar="IN.JSONL", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT.JSONL", type=click.Path(path_type=Path))
@click.option("--option", "options", multiple=True, callback=pairs, help="NAME=VALUE of the task, as top_k=3.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "record"]),
    default="stop",
    show_default=True,
    help="A line without an answer ends the run, or gets an error in its place.",
)
@click.option("--batch-size", type=int, help="The most texts in a batch. [default: 32; 8 where text is generated]")
@click.option("--window", type=int, help="Lines that are sorted by length, and on disk, together. [default: 1024]")
@click.option("--provider", help="One of those of rpln run. [default: what the export found fastest]")
@click.option("--threads", type=int, help="Of one operator. [default: what the export found fastest; 1 with --ray]")
@click.option("--ray", is_flag=True, help="Answer on a Ray cluster: that of RAY_ADDRESS, else one on this machine.")
@click.option("--actors", type=int, help="With --ray: processes that answer. [default: as the cluster has CPUs]")
def batch_command(
    folder: Path,
    source: Path,
    output: Path,
    options: Sequence[tuple[str, str]],
    on_error: str,
    batch_size: int | None,
    window: int | None,
    provider: str | None,
    threads: int | None,
    ray: bool,
    actors: int | None,
) -> None:
    """Answer every line of IN.JSONL with the bundle in FOLDER. After a kill, the same command goes on.

    \b
    {"id": 7, "text": "The dog barked."}                        a line in, other fields than the task's are kept
    {"id": 7, "answer": [{"entity": "DET", "score": ...}, ...]}  the same line out
    """
    with user_errors(interrupted=f"Interrupted. The same command goes on from here; {output} is written when whole."):
        from rpln_export.commands.show.progress import CorpusWatcher, lines_in_words
        from rpln_runtime.command_line import value_from_text
        from rpln_runtime.corpus import WINDOW, run_corpus

        with CorpusWatcher(source.name) as watcher:
            done = run_corpus(
                folder,
                source,
                output,
                provider=provider,
                threads=threads,
                batch_size=batch_size,
                window=WINDOW if window is None else window,
                on_error=on_error,
                ray=ray,
                actors=actors,
                options={name: value_from_text(text) for name, text in options},
                on_progress=watcher,
            )
        click.echo(f"{output}: {lines_in_words(done)}")
