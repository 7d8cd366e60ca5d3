"""`python -m rpln_runtime.serve` does what `rpln serve` does where only rpln-runtime is installed."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields

from rpln_runtime.command_line import exit_code_of
from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.serve.command import serve
from rpln_runtime.serve.settings import ServeSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, which is the same as that of `rpln serve`."""
    given = _parser().parse_args(arguments)
    chosen = {field.name: getattr(given, field.name) for field in fields(ServeSettings)}
    return exit_code_of(
        lambda: serve(given.folder, ServeSettings(**chosen), host=given.host, port=given.port),
        interrupted="Stopped while it started.",
    )


def _parser() -> argparse.ArgumentParser:
    default = ServeSettings()
    parser = argparse.ArgumentParser(prog="python -m rpln_runtime.serve", description="Serve bundles over HTTP.")
    parser.add_argument("folder", nargs="+", help="a bundle, as FOLDER or NAME=FOLDER")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 takes a free one (default: 8000)")
    parser.add_argument("--provider", help=f"what runs the graphs: {', '.join(PROVIDERS)}")
    numbers = {
        "threads": "the most threads that one operator uses",
        "batch_size": "the most items that run together (default: 32, or 8 where text is generated)",
        "replicas": "how many processes have each bundle open",
        "queue": "the most items that wait for a bundle",
        "items": "the most items of a request",
        "timeout": "the most seconds that a request takes",
        "body_bytes": "the most bytes of a request's body",
        "text_bytes": "the most bytes of an item's texts and options",
    }
    for name, meaning in numbers.items():
        value = getattr(default, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            default=value,
            help=meaning if value is None else f"{meaning} (default: {value})",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
