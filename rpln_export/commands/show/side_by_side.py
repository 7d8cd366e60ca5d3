"""Reports side by side, as tables."""

from typing import TYPE_CHECKING

from rpln_export.commands.show.console import make_console, make_table

if TYPE_CHECKING:
    from rpln_export.bundle.pages.side_by_side import SideBySide


def print_side_by_side(compared: "SideBySide") -> None:
    """Print a table for each topic. Rows in which the bundles differ are marked."""
    console = make_console()
    for topic, facts in compared.topics.items():
        table = make_table(topic, *compared.names)
        for fact in facts:
            table.add_row(f"{fact.name} ≠" if fact.differs else fact.name, *fact.values)
        console.print(table)
    console.print("≠ marks the rows in which the bundles differ.")
