"""What the texts of a command line stand for."""

from collections.abc import Sequence

import click


def names(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    """What commas separate."""
    return [name.strip() for name in value.split(",") if name.strip()]


def pairs(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    """NAME=VALUE, as often as it is given."""
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE.")
    return [(name, text) for name, _, text in (value.partition("=") for value in values)]


def item_from_fields(fields: Sequence[tuple[str, str]]) -> dict[str, str | list[str]]:
    """One item of a task with several fields; a field given more than once is a list."""
    item: dict[str, str | list[str]] = {}
    for name, text in fields:
        earlier = item.get(name)
        item[name] = text if earlier is None else [*([earlier] if isinstance(earlier, str) else earlier), text]
    return item
