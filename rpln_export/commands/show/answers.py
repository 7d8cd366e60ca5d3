"""Answers as tables or as JSON, and generated text while it is generated."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np

from rpln_export.commands.show.console import make_console, make_table
from rpln_runtime.errors import RplnError

if TYPE_CHECKING:
    from rpln_runtime import Generator

_FIRST_NUMBERS: Final = 4
"""How many numbers of a vector are shown."""


def to_json(answers: Any) -> str:
    """Return answers as JSON. Arrays, which are the answers of feature-extraction, become nested lists."""
    return json.dumps(answers, indent=2, ensure_ascii=False, default=lambda array: array.tolist())


def print_answers(items: Sequence[Any], answers: Sequence[Any], *, full: bool = False) -> None:
    """Print a table for each item; vectors in words, or with `full` as JSON, as any other answer without rows."""
    console = make_console()
    for item, answer in zip(items, answers, strict=True):
        console.print(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False), style="bold")
        if isinstance(answer, np.ndarray) and not full:
            console.print(_in_words(answer))
            continue
        rows = answer if isinstance(answer, list) else [answer]
        if not rows or not all(isinstance(row, dict) for row in rows):
            console.print_json(to_json(answer))
            continue
        table = make_table(*rows[0])
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


def _in_words(vectors: np.ndarray) -> str:
    """Return how many vectors there are, how long they are, and the first numbers of the first."""
    rows = vectors.reshape(-1, vectors.shape[-1])
    norms = np.linalg.norm(rows, axis=-1)
    size = f"{rows.shape[1]} numbers"
    first = ", ".join(f"{number:.4f}" for number in rows[0, :_FIRST_NUMBERS])
    begins = f"{first}, ..." if rows.shape[1] > _FIRST_NUMBERS else first
    if len(rows) == 1:
        return f"a vector of {size}, of length {norms[0]:.4f}: {begins}"
    return f"{len(rows)} vectors of {size}, of length {norms.min():.4f} to {norms.max():.4f}; the first: {begins}"


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
