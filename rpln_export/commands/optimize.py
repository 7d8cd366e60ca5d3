"""`rpln optimize`: an ONNX file from anywhere in another form."""

import json
from pathlib import Path

import click

from rpln_export.commands.user_errors import user_errors


@click.command("optimize")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option("--form", default="standard", show_default=True, help="standard, attention, merged, fused, packed, ...")
@click.option("--feeds", type=click.Path(path_type=Path), help="An .npz file to compare on, an array for each input.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def optimize_command(source: Path, output: Path, form: str, feeds: Path | None, as_json: bool) -> None:
    """Rewrite an ONNX file from anywhere into another form, as far as the passes know its graph."""
    with user_errors():
        from rpln_export.commands.show.graphs import print_file_optimization
        from rpln_export.compare.optimize_file import optimize_file

        result = optimize_file(source, output, form=form, feeds=feeds)
        if as_json:
            click.echo(json.dumps(result.to_json(), indent=2))
        else:
            print_file_optimization(result)
