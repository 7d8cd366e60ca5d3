"""`rpln validate`: a bundle against its checkpoint, once more."""

import json
from pathlib import Path

import click

from rpln_export.commands.user_errors import user_errors


@click.command("validate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("checkpoint", required=False)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparisons as JSON.")
def validate_command(folder: Path, checkpoint: str | None, revision: str | None, as_json: bool) -> None:
    """Compare the bundle in FOLDER with the CHECKPOINT it was made from (default: the embedded one) once more."""
    with user_errors():
        from rpln_export.commands.show.progress import ProgressWatcher
        from rpln_export.commands.show.report import print_comparisons
        from rpln_export.validation.revalidate import revalidate

        with ProgressWatcher() as watcher:
            proof = revalidate(folder, checkpoint, watcher, revision=revision)
        if as_json:
            click.echo(json.dumps([comparison.to_json() for comparison in proof.comparisons], indent=2))
        else:
            print_comparisons(proof.comparisons)
