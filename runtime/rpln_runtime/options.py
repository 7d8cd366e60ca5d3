"""Checks of options: every refusal names the option, its value and what was expected."""

from collections.abc import Sequence

from rpln_runtime.errors import InputError


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise InputError unless the option `name` has one of `choices` as its `value`."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}.")


def check_boolean(name: str, value: object) -> None:
    """Raise InputError unless the option `name` is True or False: any other text would count as True."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}, expected True or False.")


def check_integer(name: str, value: object, *, minimum: int, maximum: int | None = None) -> None:
    """Raise InputError unless the option `name` has an integer from `minimum` to `maximum` as its `value`."""
    if type(value) is int and minimum <= value and (maximum is None or value <= maximum):
        return
    upper = "or more" if maximum is None else f"to {maximum}"
    raise InputError(f"{name} is {value!r}, expected an integer, {minimum} {upper}.")
