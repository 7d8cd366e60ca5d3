"""The options that a checkpoint sets in its generation_config.json, which count where the user gives no others."""

from collections.abc import Iterable, Mapping
from typing import Any

from rpln_runtime.errors import InputError
from rpln_runtime.generation.options import CHECKS, GenerationOptions, check_option, idle_options


def options_over_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> GenerationOptions:
    """Return the options of a generation: those that the user has `given`, and `defaults` for the others.

    As in transformers, a default that has no effect beside the other options is left out, such as a `temperature`
    beside do_sample=False. Raises InputError for an unknown option, a value that an option cannot have, and for given
    options that have no effect or do not go together.
    """
    _check_names(given)
    options = {**defaults, **given}
    idle = idle_options(options).keys() - given.keys()
    return GenerationOptions(**{name: value for name, value in options.items() if name not in idle})


def check_defaults(defaults: Mapping[str, Any], *, vocab_size: int) -> None:
    """Raise InputError for `defaults` that a decoder with `vocab_size` ids of tokens cannot have.

    The values of all of them are checked, those that have no effect as well: with other options of the user, they may.
    """
    _check_names(defaults)
    for name, value in defaults.items():
        check_option(name, value)
    options_over_defaults({}, defaults).check_vocabulary(vocab_size)


def _check_names(options: Iterable[str]) -> None:
    for name in options:
        if name not in CHECKS:
            raise InputError(f"unknown option {name!r} of a generation: expected one of {', '.join(CHECKS)}.")
