"""`rpln inspect`: what a bundle holds, or two graphs side by side."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from rpln_export.commands.user_errors import user_errors


@click.command("inspect")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False)
@click.option("--variant", help="With OTHER: the graph of a bundle. [default: its first]")
@click.option("--text", "texts", multiple=True, help="With OTHER: compare values on this text; may be repeated.")
@click.option("--feeds", type=click.Path(path_type=Path), help="With OTHER: compare values on the arrays of this .npz.")
@click.option("--difference", type=float, help="With OTHER: share of its range that a value may differ by.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect_command(
    folder: Path,
    other: Path | None,
    variant: str | None,
    texts: Sequence[str],
    feeds: Path | None,
    difference: float | None,
    as_json: bool,
) -> None:
    """Show what the bundle in FOLDER holds, or two graphs side by side and where their values part.

    \b
    rpln inspect tagger
    rpln inspect tagger tagger-fp16 --text "The dog barked."
    rpln inspect tagger/model.onnx tagger/model.ort.onnx
    """
    with user_errors(interrupted="Interrupted."):
        from rpln_export.commands.show.graphs import print_graph_comparison, print_inspection
        from rpln_export.compare.graphs import compare_graphs
        from rpln_export.compare.inspection import inspect_bundle

        if other is None and (variant or texts or feeds or difference is not None):
            raise click.UsageError("--variant, --text, --feeds and --difference are for two graphs: name the OTHER.")
        if texts and feeds:
            raise click.UsageError("--text and --feeds exclude each other.")
        if other is None:
            inspection = inspect_bundle(folder)
            if as_json:
                click.echo(json.dumps(inspection.to_json(), indent=2))
            else:
                print_inspection(inspection)
            return
        comparison = compare_graphs(folder, other, variant=variant, texts=texts, feeds=feeds, bound=difference)
        if as_json:
            click.echo(json.dumps(comparison.to_json(), indent=2))
        else:
            print_graph_comparison(comparison)
