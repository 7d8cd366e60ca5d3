"""`python -m rpln_runtime.triton FOLDER -o REPOSITORY`: rpln triton where only rpln-runtime is installed."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rpln_runtime.command_line import exit_code_of
from rpln_runtime.triton.command import check, write


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: that of the error, as `rpln` has it."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.check == (given.output is not None):
        parser.error("give either -o REPOSITORY, to write one, or --check.")
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
            options=given.option,
            engine=given.engine,
        )
    )
    sys.stdout.write(f"{done}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rpln_runtime.triton", description="Write a bundle for Triton.")
    parser.add_argument("folder", type=Path, help="the bundle; with --check, the repository")
    parser.add_argument("-o", "--output", type=Path, help="the repository to write")
    parser.add_argument("--name", help="what clients ask for (default: the bundle's folder)")
    parser.add_argument("--batch-size", type=int, help="the most rows the model takes at a time (32; 8 of generators)")
    parser.add_argument("--buckets", help="lengths that rows are padded to, as 32,64,128 (default: powers of two)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the task")
    parser.add_argument("--engine", help="a TensorRT engine of the bundle, by its file's name without .plan")
    parser.add_argument("--check", action="store_true", help="check a repository instead of writing one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
