"""`python -m rpln_runtime.triton` does what `rpln triton` does where only rpln-runtime is installed."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rpln_runtime.command_line import exit_code_of
from rpln_runtime.triton.command import check, idle_with_check, write


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, which is the same as that of `rpln triton`."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.check == (given.output is not None):
        parser.error("give either -o REPOSITORY to write one, or --check to check one.")
    others = {name: value for name, value in vars(given).items() if name not in {"folder", "output", "check"}}
    if given.check and (reason := idle_with_check(others)):
        parser.error(reason)
    return exit_code_of(lambda: _run(given), interrupted="Interrupted: nothing was published.")


def _run(given: argparse.Namespace) -> None:
    done = (
        check(given.folder)
        if given.check
        else write(
            given.folder,
            given.output,
            name=given.name,
            batch_size=given.batch_size,
            buckets=given.buckets,
            max_text_bytes=given.max_text_bytes,
            options=given.option,
            engine=given.engine,
        )
    )
    sys.stdout.write(f"{done}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rpln_runtime.triton",
        description="Write a bundle as a model repository for Triton Inference Server, or check one.",
    )
    parser.add_argument("folder", type=Path, help="the folder of the bundle; with --check, the repository")
    parser.add_argument("-o", "--output", type=Path, help="the model repository to write")
    parser.add_argument("--name", help="the name that clients ask for (default: the name of the bundle's folder)")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="the most rows that the model takes at a time (default: 32, or 8 where text is generated)",
    )
    parser.add_argument(
        "--buckets", help="lengths in tokens that rows are padded to, for example 32,64,128 (default: powers of two)"
    )
    parser.add_argument(
        "--max-text-bytes",
        type=int,
        help="the most bytes that the texts and options of a request have together (default: 16 for each token of the "
        "rows that the model takes at a time, and at least 65,536)",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the task for requests that have none of their own; may be given several times",
    )
    parser.add_argument(
        "--engine",
        help="serve this TensorRT engine of the bundle, named by its file without .plan (default: the graph)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="instead of writing a repository, compare the one in FOLDER with what was written, and list all "
        "differences but those that operators may make",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
