"""The two programs: `rpln-export` makes a bundle, and the commands of `rpln` work with one."""

import atexit
import gc
from typing import Final

import cloup

from rpln_export._version import __version__
from rpln_export.commands.batch import batch_command
from rpln_export.commands.bench import bench_command
from rpln_export.commands.build import build_command
from rpln_export.commands.convert import convert_command
from rpln_export.commands.doctor import doctor_command
from rpln_export.commands.engine import engine_command
from rpln_export.commands.evaluate import evaluate_command
from rpln_export.commands.export import export_command
from rpln_export.commands.inspect import inspect_command
from rpln_export.commands.optimize import optimize_command
from rpln_export.commands.push import push_command
from rpln_export.commands.report import report_command
from rpln_export.commands.run import run_command
from rpln_export.commands.serve import serve_command
from rpln_export.commands.settings import HELP, ProgramOfCommands
from rpln_export.commands.triton import triton_command
from rpln_export.commands.user_errors import INTERRUPTED
from rpln_export.commands.validate import validate_command

__all__ = ["INTERRUPTED", "export_command", "rpln_command"]

_SECTIONS: Final = (
    cloup.Section(
        "Run a bundle", [run_command, batch_command, serve_command, triton_command, push_command], is_sorted=False
    ),
    cloup.Section(
        "Inspect and check",
        [
            inspect_command,
            report_command,
            engine_command,
            validate_command,
            evaluate_command,
            bench_command,
            doctor_command,
        ],
        is_sorted=False,
    ),
    cloup.Section("Build and convert", [build_command, convert_command, optimize_command], is_sorted=False),
)

# Otherwise Python looks for cycles among all objects of torch when a program ends, which takes more than a second.
atexit.register(gc.freeze)


@cloup.group(cls=ProgramOfCommands, sections=_SECTIONS, context_settings=HELP)
@cloup.version_option(__version__)
def rpln_command() -> None:
    """Run, inspect and validate bundles that rpln-export made, and check this machine."""
