"""`rpln inspect`: show what a bundle holds, or compare two graphs."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
import cloup

from rpln_export.commands.settings import HELP
from rpln_export.commands.user_errors import user_errors


@cloup.command("inspect", context_settings=HELP, short_help="Show what a bundle holds, or compare two graphs.")
@cloup.argument(
    "folder", type=click.Path(path_type=Path), help="A bundle. If OTHER is given, it may also be an ONNX file."
)
@cloup.argument(
    "other", type=click.Path(path_type=Path), required=False, help="The bundle or ONNX file to compare with."
)
@cloup.option_group(
    "With OTHER",
    cloup.option("--variant", help="The variant of the graph to compare. [default: the first of the bundle]"),
    cloup.option("--text", "texts", multiple=True, help="A text to compare values on. Give it again for another text."),
    cloup.option(
        "--feeds",
        type=click.Path(path_type=Path),
        metavar="FEEDS.NPZ",
        help="The inputs to compare values on, with one array for each input of the graphs.",
    ),
    cloup.option(
        "--difference",
        type=float,
        help="The share of its range that a value may differ by. [default: 1e-4; 2e-2 if a graph is fp16 or bf16]",
    ),
)
@cloup.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def inspect_command(
    folder: Path,
    other: Path | None,
    variant: str | None,
    texts: Sequence[str],
    feeds: Path | None,
    difference: float | None,
    as_json: bool,
) -> None:
    """Show what the bundle in FOLDER holds, or how two graphs differ.

    \b
    rpln inspect tagger
    rpln inspect tagger tagger-fp16 --text "The dog barked."
    rpln inspect tagger/model.onnx tagger/model.ort.onnx
    """
    with user_errors(interrupted="Interrupted."):
        from rpln_export.commands.show.progress import ProgressWatcher

        if other is None and (variant or texts or feeds or difference is not None):
            raise click.UsageError(
                "--variant, --text, --feeds and --difference compare two graphs. Name the OTHER one, too."
            )
        if texts and feeds:
            raise click.UsageError("--text and --feeds both name inputs. Leave one of them out.")
        with ProgressWatcher("inspecting" if other is None else "comparing"):
            from rpln_export.commands.show.graphs import print_graph_comparison, print_inspection
            from rpln_export.compare.graphs import compare_graphs
            from rpln_export.compare.inspection import Inspection, inspect_bundle

            found = (
                inspect_bundle(folder)
                if other is None
                else compare_graphs(folder, other, variant=variant, texts=texts, feeds=feeds, bound=difference)
            )
        if as_json:
            click.echo(json.dumps(found.to_json(), indent=2))
        elif isinstance(found, Inspection):
            print_inspection(found)
        else:
            print_graph_comparison(found)
