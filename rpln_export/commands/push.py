"""`rpln push`: a bundle is uploaded to the Hugging Face hub."""

from pathlib import Path

import click
import cloup

from rpln_export.commands.settings import HELP
from rpln_export.commands.user_errors import user_errors


@cloup.command("push", context_settings=HELP, short_help="Upload a bundle to the Hugging Face hub.")
@cloup.argument("folder", type=click.Path(path_type=Path), help="The folder of the bundle.")
@cloup.argument("repo_id", metavar="OWNER/NAME", help="The repository, which is made if it does not exist.")
@cloup.option(
    "--private/--public",
    default=None,
    help="Whether a repository that is made is private. [default: what its owner has set]",
)
@cloup.option("--revision", help="The branch to upload to, which is made if it does not exist. [default: main]")
@cloup.option("--message", "commit_message", help="The message of the commit.")
def push_command(
    folder: Path, repo_id: str, private: bool | None, revision: str | None, commit_message: str | None
) -> None:
    """Upload the bundle in FOLDER to the Hugging Face hub, with a model card made from its report.

    The token is the one that `hf auth login` or HF_TOKEN has set.
    """
    with user_errors(interrupted="Interrupted: nothing was committed."):
        from rpln_export.commands.show.progress import ProgressWatcher

        with ProgressWatcher("uploading"):
            from rpln_export.api.hub import push_to_hub

            address = push_to_hub(folder, repo_id, private=private, revision=revision, commit_message=commit_message)
        click.echo(address)
