"""What the programs have in common: how help is shown, hints after mistakes, and what cannot be printed."""

from typing import Any, Final

import click
import cloup

from rpln_runtime.command_line import printing

HELP: Final = cloup.Context.settings(
    formatter_settings=cloup.HelpFormatter.settings(max_width=110, col1_max_width=34), show_constraints=False
)
"""Help is as wide as the terminal up to 110 columns, with options in groups."""


_COMMANDS_ELSEWHERE: Final = {"export": "To export a checkpoint, run: rpln-export CHECKPOINT"}
"""The hints for commands that `rpln` lacks because another program does their work."""
_OPTIONS_ELSEWHERE: Final = {
    **dict.fromkeys(("--model", "-m"), "Name the checkpoint without an option: rpln-export CHECKPOINT"),
}
"""The hints for options that other exporters have and `rpln-export` lacks."""
_OUTPUT_ELSEWHERE: Final = "To name the folder of the bundle, run: rpln-export CHECKPOINT -o FOLDER"
"""The hint for a second argument, which is the output of other exporters."""


class Program(cloup.Command):
    """A program of one command. It says so if its output cannot be written to stdout, as `printing` describes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments of the command line. Raises click.UsageError, with hints where other exporters differ."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if (hint := _OPTIONS_ELSEWHERE.get(error.option_name)) is None:
                raise
            raise click.UsageError(f"{error.message} {hint}", ctx) from error
        except click.UsageError as error:
            if "unexpected extra argument" not in error.message:
                raise
            raise click.UsageError(f"{error.message}. {_OUTPUT_ELSEWHERE}", ctx) from error

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the program on the arguments of the command line."""
        with printing():
            return super().main(*arguments, **options)


class ProgramOfCommands(cloup.Group):
    """A program of several commands. It says so if its output cannot be written to stdout, as a `Program` does."""

    def handle_bad_command_name(
        self, bad_name: str, valid_names: list[str], error: click.UsageError
    ) -> click.UsageError:
        """Return the error for a command that does not exist, with a hint for those in the table."""
        if (hint := _COMMANDS_ELSEWHERE.get(bad_name)) is not None:
            return click.UsageError(f"{error.message} {hint}", error.ctx)
        return super().handle_bad_command_name(bad_name, valid_names, error)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command that the arguments of the command line name."""
        with printing():
            return super().main(*arguments, **options)
