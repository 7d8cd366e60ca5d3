"""`python -m rpln_runtime` does what `rpln run` and `rpln batch` do, where only the runtime is installed."""

import argparse
import json
import sys
from collections.abc import Sequence

from rpln_runtime._version import __version__
from rpln_runtime.command_line import exit_code_of, option_from_text, texts_from_arguments
from rpln_runtime.corpus import WINDOW, Progress, run_corpus
from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.pipelines import pipeline


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments` (None: the process's own) and return its exit code, which is that of `rpln`."""
    chosen = _parser().parse_args(arguments)
    return exit_code_of(lambda: chosen.command(chosen), interrupted="Interrupted.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rpln_runtime", description="Run bundles that rpln-export made.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="answer texts and print the answers as JSON")
    run.set_defaults(command=_run)
    run.add_argument("folder")
    run.add_argument("texts", metavar="text", nargs="+", help="a text, or - for the lines of the standard input")
    batch = commands.add_parser("batch", help="answer a file of JSON lines; if it is killed, the same command goes on")
    batch.set_defaults(command=_batch)
    for name in ("folder", "source", "output"):
        batch.add_argument(name)
    batch.add_argument(
        "--on-error",
        choices=("stop", "record"),
        default="stop",
        help="what to do at a line that cannot be answered: stop, or record the error and go on",
    )
    batch.add_argument(
        "--window", type=int, default=WINDOW, help="how many lines are sorted by length and written together"
    )
    batch.add_argument("--ray", action="store_true", help="answer on a Ray cluster")
    batch.add_argument("--actors", type=int, help="with --ray, how many processes answer")
    for command in (run, batch):
        command.add_argument(
            "--option", dest="options", action="append", default=[], metavar="NAME=VALUE", help="an option of the task"
        )
        command.add_argument("--provider", help=f"what runs the graph: {', '.join(PROVIDERS)}")
        command.add_argument("--threads", type=int, help="the most threads that one operator uses")
        command.add_argument("--batch-size", type=int, help="the most texts in a batch")
    return parser


def _run(chosen: argparse.Namespace) -> None:
    answer = pipeline(
        chosen.folder,
        provider=chosen.provider,
        threads=chosen.threads,
        batch_size=chosen.batch_size,
        **dict(map(option_from_text, chosen.options)),
    )
    answers = [answer(text) for text in texts_from_arguments(chosen.texts)]
    text = json.dumps(answers, indent=2, ensure_ascii=False, default=lambda array: array.tolist())
    sys.stdout.write(f"{text}\n")


def _batch(chosen: argparse.Namespace) -> None:
    done = run_corpus(
        chosen.folder,
        chosen.source,
        chosen.output,
        provider=chosen.provider,
        threads=chosen.threads,
        batch_size=chosen.batch_size,
        window=chosen.window,
        on_error=chosen.on_error,
        ray=chosen.ray,
        actors=chosen.actors,
        options=dict(map(option_from_text, chosen.options)),
        on_progress=_show_share if sys.stderr.isatty() else None,
        on_lines=_show_lines if sys.stderr.isatty() else None,
    )
    sys.stdout.write(f"{chosen.output}: {done.lines:,} lines, {done.errors:,} of them errors\n")


def _show_share(progress: Progress, size: int) -> None:
    """Show on a terminal how much of the file has been answered; `size` is the file's size in bytes."""
    share = progress.read / size if size else 1.0
    _show_lines(progress.lines, progress.read)
    sys.stderr.write(f", {share:.0%}" + ("\n" if share == 1 else ""))
    sys.stderr.flush()


def _show_lines(lines: int, _read: int) -> None:
    """Show on a terminal how many lines have been answered."""
    sys.stderr.write(f"\r{lines:12,} lines")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
