"""`rpln optimize`: rewrite an ONNX file from anywhere into another form."""

import json
from pathlib import Path

import click
import cloup

from rpln_export.commands.settings import HELP
from rpln_export.commands.table_option import TableOption, forms
from rpln_export.commands.user_errors import user_errors


@cloup.command("optimize", context_settings=HELP, short_help="Rewrite an ONNX file into another form.")
@cloup.argument("source", metavar="SOURCE.ONNX", type=click.Path(path_type=Path), help="The file to rewrite.")
@cloup.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write.")
@cloup.option(
    "--form",
    cls=TableOption,
    rows=forms,
    default="standard",
    show_default=True,
    help="The form that the graph gets: {rows}.",
)
@cloup.option(
    "--feeds",
    type=click.Path(path_type=Path),
    metavar="FEEDS.NPZ",
    help="The inputs that both graphs are compared on, with one array for each input. [default: random tokens]",
)
@cloup.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def optimize_command(source: Path, output: Path, form: str, feeds: Path | None, as_json: bool) -> None:
    """Rewrite an ONNX file into another form, whichever tool made it. What no pass recognizes stays as it is."""
    with user_errors():
        from rpln_export.commands.show.progress import ProgressWatcher

        with ProgressWatcher("rewriting"):
            from rpln_export.commands.show.graphs import print_file_optimization
            from rpln_export.compare.optimize_file import optimize_file

            result = optimize_file(source, output, form=form, feeds=feeds)
        if as_json:
            click.echo(json.dumps(result.to_json(), indent=2))
        else:
            print_file_optimization(result)
