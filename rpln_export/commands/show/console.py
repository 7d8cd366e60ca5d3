"""The console that commands print on."""

from rich.console import Console


def make_console() -> Console:
    """Return a console that prints users' texts as they are: without markup, emoji names or highlights in them."""
    console = Console(markup=False, emoji=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, highlight=False, width=110)
