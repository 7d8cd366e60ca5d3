"""`rpln batch`: answer every line of a corpus with a bundle."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import cloup

from rpln_export.commands.settings import HELP
from rpln_export.commands.table_option import TableOption, providers
from rpln_export.commands.user_errors import user_errors
from rpln_export.commands.values import pairs

if TYPE_CHECKING:
    from rpln_export.commands.show import progress

SMALL_WINDOW: Final = 128
"""The window that is advised where a run takes long to get anything on disk."""
_PATH = click.Path(path_type=Path)


@cloup.command("batch", context_settings=HELP, short_help="Answer every line of a JSON Lines file.")
@cloup.argument("folder", type=_PATH, help="The folder of the bundle.")
@cloup.argument("source", metavar="IN.JSONL", type=_PATH, help="The items: one JSON object on each line.")
@cloup.argument("output", metavar="OUT.JSONL", type=_PATH, help="The file that gets the answers, in the same order.")
@cloup.option_group(
    "Answers",
    cloup.option(
        "--option",
        "options",
        multiple=True,
        callback=pairs,
        metavar="NAME=VALUE",
        help="An option of the task, for example top_k=3. Give it again for another option.",
    ),
    cloup.option(
        "--on-error",
        type=click.Choice(["stop", "record"]),
        default="stop",
        show_default=True,
        help="What happens to a line that cannot be answered: stop ends the run, record writes the error as its "
        "answer.",
    ),
)
@cloup.option_group(
    "Speed",
    cloup.option("--batch-size", type=int, help="The most texts in a batch. [default: 32; 8 where text is generated]"),
    cloup.option(
        "--window",
        type=int,
        help="How many lines are sorted by length together, and written to disk together. [default: 1024]",
    ),
    cloup.option(
        "--provider",
        cls=TableOption,
        rows=providers,
        help="The provider that runs the graph: {rows}. [default: the one that the export found fastest]",
    ),
    cloup.option(
        "--threads",
        type=int,
        help="The most threads that one operator uses. [default: the number that the export found fastest; 1 with "
        "--ray]",
    ),
)
@cloup.option_group(
    "Cluster",
    cloup.option(
        "--ray",
        is_flag=True,
        help="Answer on the Ray cluster that the variable RAY_ADDRESS names, or else on one on this machine.",
    ),
    cloup.option(
        "--actors",
        type=int,
        help="How many processes answer, with --ray. [default: as many as the cluster has CPUs for]",
    ),
)
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
    """Answer every line of IN.JSONL with the bundle in FOLDER. After an interrupt, the same command continues.

    \b
    {"id": 7, "text": "The dog barked."}                        a line of IN.JSONL; fields such as id are kept
    {"id": 7, "answer": [{"entity": "DET", "score": 0.99}]}     its line in OUT.JSONL
    """
    watcher: progress.CorpusWatcher | None = None
    with user_errors(interrupted=lambda: _interrupted(watcher, window, output)):
        from rpln_export.commands.show.progress import CorpusWatcher, lines_in_words

        with CorpusWatcher(source.name) as watcher:
            from rpln_runtime.command_line import value_from_text
            from rpln_runtime.corpus import WINDOW, run_corpus

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
                on_progress=watcher.written,
                on_lines=watcher.answered,
            )
        click.echo(f"{output}: {lines_in_words(done.lines, done.errors)}")


def _interrupted(watcher: "progress.CorpusWatcher | None", window: int | None, output: Path) -> str:
    """Return how much of the run is kept, and how to continue it."""
    kept = ""
    if watcher is not None and watcher.on_disk is not None:
        from rpln_runtime.corpus import WINDOW

        window = WINDOW if window is None else window
        kept = f"{watcher.on_disk:,} of the {watcher.lines:,} lines answered are on disk"
        if watcher.on_disk < watcher.lines:
            kept += f", since they are written in windows of {window:,}"
        if watcher.on_disk == 0 and window > SMALL_WINDOW:
            kept += f" (--window {SMALL_WINDOW} keeps more)"
        kept += ". "
    return f"Interrupted. {kept}To continue, run the same command again. {output} is written when it is complete."
