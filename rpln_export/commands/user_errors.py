"""What the user can put right is a line on stderr and an exit code; bugs show themselves."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

INTERRUPTED: Final = 130


@contextmanager
def user_errors(*, interrupted: str = "Interrupted: nothing was published.") -> Iterator[None]:
    """Report what the user can put right in a line on stderr and leave with its exit code; let bugs show themselves."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        click.echo(interrupted, err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None or isinstance(error, click.ClickException):
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(code)
