"""The console that commands print on, and the tables that they print."""

from rich.console import Console
from rich.table import Column, Table


def make_console() -> Console:
    """Return a console that prints users' texts as they are: without markup, emoji names or highlights in them."""
    console = Console(markup=False, emoji=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, highlight=False, width=110)


def make_table(*headers: str, title: str | None = None) -> Table:
    """Return an empty table with a column for each of the `headers`.

    What does not fit goes on in the next line. rich by itself would cut it, and a name that is cut cannot be copied.
    """
    return Table(*(Column(header, overflow="fold") for header in headers), title=title, title_justify="left")
