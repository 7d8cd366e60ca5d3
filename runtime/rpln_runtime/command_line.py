"""What commands share: options as texts, and errors as lines on stderr and exit codes, as `rpln` has them."""

import json
import sys
from collections.abc import Callable
from typing import Any, Final

from rpln_runtime.errors import InputError, RplnError

INTERRUPTED: Final = 130

_PYTHON: Final = {"True": "true", "False": "false", "None": "null"}


def value_from_text(text: str) -> Any:
    """An option's value: JSON or Python's True, False and None where it is that, else the text itself."""
    try:
        return json.loads(_PYTHON.get(text, text))
    except ValueError:
        return text


def option_from_text(text: str) -> tuple[str, Any]:
    """NAME=VALUE. Raises InputError for anything else."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"the option {text!r} is not NAME=VALUE.")
    return name, value_from_text(value)


def exit_code_of(command: Callable[[], None], *, interrupted: str) -> int:
    """Run `command`; what the user can put right, and an interrupt, is a line on stderr and an exit code."""
    try:
        command()
    except RplnError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        return INTERRUPTED
    return 0
