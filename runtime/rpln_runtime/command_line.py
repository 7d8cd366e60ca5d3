"""Helpers of all commands: they read what is given as text, print, and turn errors and signals into exit codes."""

import codecs
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from rpln_runtime.documents import document_from_bytes
from rpln_runtime.errors import InputError, RplnError
from rpln_runtime.limits import OTHER

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C: 128 plus the number of the signal SIGINT, as shells have it."""

UNPRINTED: Final = 9
"""The exit code where stdout cannot be written, which is that of a destination that cannot be written."""
STANDARD_INPUT: Final = "-"
"""The argument that stands for the lines of the standard input."""

MOST_CHARACTERS: Final = 1 << 26
"""The most characters of the standard input, whose lines are in memory together."""

_ESCAPES: Final = "rpln-escapes"
"""The name that the codecs module knows `_escaped` by."""
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


def texts_from_arguments(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the texts that `arguments` are, with the lines of the standard input in the place of STANDARD_INPUT.

    Raises InputError where the standard input is closed, has no end within MOST_CHARACTERS, or is not in its encoding.
    """
    for argument in arguments:
        if argument != STANDARD_INPUT:
            yield argument
            continue
        if sys.stdin is None:
            raise InputError(f"the standard input is closed, and {STANDARD_INPUT} stands for its lines: open it.")
        try:
            given = sys.stdin.read(MOST_CHARACTERS + 1)
        except UnicodeDecodeError as error:
            raise InputError(
                f"the standard input is not {error.encoding} ({error.reason} at byte {error.start}): convert it, or "
                "set PYTHONIOENCODING to its encoding."
            ) from error
        if len(given) > MOST_CHARACTERS:
            raise InputError(
                f"the standard input has more than {MOST_CHARACTERS:,} characters, which are answered together: give a "
                "part of it, or write a file of JSON lines for rpln batch, which takes any size."
            )
        # Files of Windows may begin with a byte order mark, and their lines end in two characters.
        lines = given.removeprefix("\ufeff").split("\n")
        yield from (line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1]))


@contextmanager
def printing() -> Iterator[None]:
    """Let everything that a program prints in the block reach stdout, or say why it does not.

    Characters that the encoding of stdout lacks are printed as JSON's escapes, so that JSON stays JSON. If the reader
    of a pipe is gone, the program ends in silence, with exit code 1. If stdout cannot be written, as on a full disk, a
    line on stderr says so, and the exit code is UNPRINTED.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ESCAPES)
    try:
        yield
    except SystemExit:
        _write_to_stdout("")
        raise
    except OSError:
        # Writing again shows whether it was stdout that failed. A text that failed is not always kept in the buffer.
        _write_to_stdout("\n")
        raise
    _write_to_stdout("")


def _write_to_stdout(text: str) -> None:
    """Write `text` and what is left in the buffer. Exit if that fails, and drop it: the interpreter would try again."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        sys.stderr.write(f"Error: stdout cannot be written ({error}). Free space there, or send it elsewhere.\n")
        sys.exit(UNPRINTED)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Return the escapes of JSON for the characters that cannot be encoded, as an error handler of `codecs` does."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


codecs.register_error(_ESCAPES, _escaped)


def handle_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Let `handler` handle Ctrl-C, SIGTERM and SIGHUP, which a terminal sends that is closed.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does, so that this process cleans up."""
    handle_signals(signal.default_int_handler)


def exit_code_of(command: Callable[[], None], *, interrupted: str) -> int:
    """Run `command` and return the exit code of the program.

    An RplnError is printed on stderr, and its exit code is returned. Ctrl-C, SIGTERM and SIGHUP print `interrupted` and
    return INTERRUPTED. What happens to text that cannot be printed is said in `printing`.
    """
    interrupt_on_signals()
    try:
        with printing():
            command()
    except RplnError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        return INTERRUPTED
    return 0
