"""Helpers of all commands: they read options that are given as text, and turn errors and signals into exit codes."""

import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from rpln_runtime.documents import document_from_bytes
from rpln_runtime.errors import InputError, RplnError
from rpln_runtime.limits import OTHER

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C: 128 plus the number of the signal SIGINT, as shells have it."""

_PYTHON: Final = {"True": "true", "False": "false", "None": "null"}
"""The constants of Python that JSON spells in another way, so that `--option truncation=True` works as well."""


def value_from_text(text: str) -> Any:
    """Return the value that `text` stands for: JSON, or Python's True, False or None. Other text stands for itself."""
    try:
        return document_from_bytes(_PYTHON.get(text, text).encode(), OTHER)
    except ValueError:
        return text


def option_from_text(text: str) -> tuple[str, Any]:
    """Return the name and the value of an option that is given as NAME=VALUE. Raises InputError for other text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"the option {text!r} is not NAME=VALUE: write it like top_k=3.")
    return name, value_from_text(value)


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP interrupt this process as Ctrl-C does, so that it cleans up: it raises KeyboardInterrupt.

    A terminal that is closed sends SIGHUP. Where that is ignored, as under nohup, it stays ignored.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def exit_code_of(command: Callable[[], None], *, interrupted: str) -> int:
    """Run `command` and return the exit code of the program.

    An RplnError is printed on stderr, and its exit code is returned. Ctrl-C, SIGTERM and SIGHUP print `interrupted` and
    return INTERRUPTED.
    """
    interrupt_on_signals()
    try:
        command()
    except RplnError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        return INTERRUPTED
    return 0
