"""What a user can put right is reported in a line on stderr, with an exit code; a bug shows its traceback."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

from rpln_runtime.command_line import interrupt_on_signals

INTERRUPTED: Final = 130
"""The exit code after an interrupt, as shells have it for SIGINT."""


@contextmanager
def user_errors(*, interrupted: str | Callable[[], str] = "Interrupted: nothing was published.") -> Iterator[None]:
    """Report an error that a user can put right on stderr and exit with its code; let other errors through.

    `interrupted` is what an interrupt, SIGTERM or SIGHUP is answered with, or a function that returns it then.
    """
    interrupt_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        click.echo(interrupted if isinstance(interrupted, str) else interrupted(), err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None or isinstance(error, click.ClickException):
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(code)
