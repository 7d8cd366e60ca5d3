"""`rpln validate`: compare a bundle with its checkpoint once more."""

import json
from pathlib import Path

import click
import cloup

from rpln_export.commands.checkpoint_options import revision_option
from rpln_export.commands.settings import HELP
from rpln_export.commands.user_errors import user_errors


@cloup.command("validate", context_settings=HELP, short_help="Compare a bundle with its checkpoint once more.")
@cloup.argument("folder", type=click.Path(path_type=Path), help="The folder of the bundle.")
@cloup.argument(
    "checkpoint",
    required=False,
    help="The checkpoint that the bundle was made from. [default: the one that its manifest names, if "
    "it is embedded, in the current folder, beside the bundle or in the hub's cache]",
)
@revision_option
@cloup.option("--json", "as_json", is_flag=True, help="Print the comparisons as JSON.")
def validate_command(folder: Path, checkpoint: str | None, revision: str | None, as_json: bool) -> None:
    """Compare the bundle in FOLDER once more with the CHECKPOINT that it was made from."""
    with user_errors():
        from rpln_export.commands.show.progress import ProgressWatcher

        with ProgressWatcher() as watcher:
            from rpln_export.commands.show.report import print_comparisons
            from rpln_export.validation.revalidate import revalidate

            proof = revalidate(folder, checkpoint, watcher, revision=revision)
        if as_json:
            click.echo(json.dumps([comparison.to_json() for comparison in proof.comparisons], indent=2))
        else:
            print_comparisons(proof.comparisons)
