"""`rpln engine`: show the engines of a bundle, kernel by kernel."""

import dataclasses
import json
from pathlib import Path

import click
import cloup

from rpln_export.commands.settings import HELP
from rpln_export.commands.user_errors import user_errors


@cloup.command("engine", context_settings=HELP, short_help="Show the TensorRT engines of a bundle.")
@cloup.argument("folder", type=click.Path(path_type=Path), help="The folder of the bundle.")
@cloup.option("--json", "as_json", is_flag=True, help="Print the engines as JSON.")
def engine_command(folder: Path, as_json: bool) -> None:
    """Show the TensorRT engines of the bundle in FOLDER, and the kernels that they run."""
    with user_errors(interrupted="Interrupted."):
        from rpln_export.commands.show.progress import ProgressWatcher

        with ProgressWatcher("reading"):
            from rpln_export.bundle.engines import engines_of_bundle
            from rpln_export.commands.show.engines import print_engines, print_kernels

            engines = engines_of_bundle(folder)
        if as_json:
            click.echo(json.dumps([dataclasses.asdict(one) for one in engines], indent=2))
            return
        print_engines(engines)
        for engine in engines:
            print_kernels(engine)
