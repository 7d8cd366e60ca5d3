"""Answers as tables or as JSON, and generated text while it is generated."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from rpln_export.commands.show.console import make_console
from rpln_runtime.errors import RplnError

if TYPE_CHECKING:
    from rpln_runtime import Generator


def to_json(answers: Any) -> str:
    """Return answers as JSON. Arrays, which are the answers of feature-extraction, become nested lists."""
    return json.dumps(answers, indent=2, ensure_ascii=False, default=lambda array: array.tolist())


def print_answers(items: Sequence[Any], answers: Sequence[Any]) -> None:
    """Print a table for each item. An answer that does not consist of rows is printed as JSON."""
    console = make_console()
    for item, answer in zip(items, answers, strict=True):
        console.print(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False), style="bold")
        rows = answer if isinstance(answer, list) else [answer]
        if not rows or not all(isinstance(row, dict) for row in rows):
            console.print_json(to_json(answer))
            continue
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        console.print(table)


def print_streams(generator: "Generator", texts: Iterable[str], options: Mapping[str, Any]) -> None:
    """Print each text, followed by what is generated for it as soon as it is there.

    stdout is named, since click would write UTF-8 to one that takes ASCII only.
    """
    for text in texts:
        pieces = generator.stream(text, **options)
        if options.get("return_full_text") is not False:
            click.secho(text, bold=True, nl=not generator.continues_prompts, file=sys.stdout)
        try:
            for piece in pieces:
                click.echo(piece, nl=False, file=sys.stdout)
        except RplnError:
            click.echo(file=sys.stdout)  # so that the message begins a line
            raise
        click.echo(file=sys.stdout)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
