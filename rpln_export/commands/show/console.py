"""The console that answers and tables are printed on."""

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    pass


def make_console() -> Console:
    """What is printed are users' texts: nothing in them is markup, an emoji's name or worth a colour."""
    console = Console(markup=False, emoji=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, highlight=False, width=110)
