"""`rpln engine`: the engines of a bundle, kernel by kernel."""

import dataclasses
import json
from pathlib import Path

import click

from rpln_export.commands.user_errors import user_errors


@click.command("engine")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the engines as JSON.")
def engine_command(folder: Path, as_json: bool) -> None:
    """Show the TensorRT engines of the bundle in FOLDER, and the kernels that they run."""
    with user_errors(interrupted="Interrupted."):
        from rpln_export.bundle.engines import engines_of_bundle
        from rpln_export.commands.show.engines import print_engines, print_kernels

        engines = engines_of_bundle(folder)
        if as_json:
            click.echo(json.dumps([dataclasses.asdict(one) for one in engines], indent=2))
            return
        print_engines(engines)
        for engine in engines:
            print_kernels(engine)
