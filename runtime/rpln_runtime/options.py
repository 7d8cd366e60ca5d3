"""Checks of options. The message of every refusal names the option, its value, and what was expected."""

from collections.abc import Sequence

from rpln_runtime.errors import InputError


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise InputError unless `value`, the value of the option `name`, is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}.")


def check_boolean(name: str, value: object) -> None:
    """Raise InputError unless `value`, the value of the option `name`, is True or False.

    Python would take any text for True, "false" too.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}, expected True or False.")


def check_integer(name: str, value: object, *, minimum: int, maximum: int | None = None) -> None:
    """Raise InputError unless `value`, the value of the option `name`, is an integer from `minimum` to `maximum`.

    Without a `maximum`, any integer from `minimum` on is accepted.
    """
    if type(value) is int and minimum <= value and (maximum is None or value <= maximum):
        return
    upper = "or more" if maximum is None else f"to {maximum}"
    raise InputError(f"{name} is {value!r}, expected an integer, {minimum} {upper}.")
