"""Values read from the texts of a command line."""

from collections.abc import Sequence

import click


def names(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    """Return the names in a list that is separated by commas."""
    return [name.strip() for name in value.split(",") if name.strip()]


def integers(context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Return the integers in a list that is separated by commas; None where the option is not given.

    Raises click.BadParameter for anything else.
    """
    if value is None:
        return None
    try:
        return [int(number) for number in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of integers, such as 1,8.") from error


def pairs(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    """Return the name and the value of each NAME=VALUE. Raises click.BadParameter for a text without =."""
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE.")
    return [(name, text) for name, _, text in (value.partition("=") for value in values)]


def item_from_fields(fields: Sequence[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Return one item of a task that takes several fields; a field that is given more than once becomes a list."""
    item: dict[str, str | list[str]] = {}
    for name, text in fields:
        earlier = item.get(name)
        item[name] = text if earlier is None else [*([earlier] if isinstance(earlier, str) else earlier), text]
    return item
