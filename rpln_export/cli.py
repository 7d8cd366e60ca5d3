"""The two commands: `rpln-export` makes a bundle, `rpln` does what follows. click only: parse -> plan -> call."""

from typing import Final

import click

from rpln_export._version import __version__
from rpln_export.commands.batch import batch_command
from rpln_export.commands.build import build_command
from rpln_export.commands.convert import convert_command
from rpln_export.commands.doctor import doctor_command
from rpln_export.commands.engine import engine_command
from rpln_export.commands.export import export_command
from rpln_export.commands.inspect import inspect_command
from rpln_export.commands.optimize import optimize_command
from rpln_export.commands.run import run_command
from rpln_export.commands.triton import triton_command
from rpln_export.commands.user_errors import INTERRUPTED
from rpln_export.commands.validate import validate_command

__all__ = ["INTERRUPTED", "export_command", "rpln_command"]

_COMMANDS: Final = (
    run_command,
    batch_command,
    validate_command,
    inspect_command,
    convert_command,
    optimize_command,
    build_command,
    engine_command,
    triton_command,
    doctor_command,
)


@click.group(context_settings={"max_content_width": 110})
@click.version_option(__version__)
def rpln_command() -> None:
    """What follows an export: run a bundle, validate it again, look inside, and check this machine."""


for _command in _COMMANDS:
    rpln_command.add_command(_command)
