"""`rpln doctor`: show what this machine has and lacks."""

import sys

import click
import cloup

from rpln_export.commands.settings import HELP


@cloup.command("doctor", context_settings=HELP, short_help="Show what this machine has and lacks.")
@cloup.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(as_json: bool) -> None:
    """Show what is installed, what is missing and what cannot be done without it, and what is in conflict."""
    from rich.console import Console

    from rpln_export.commands.show.progress import ProgressWatcher

    with ProgressWatcher("checking"):
        from rpln_export.doctor.checks import diagnose, render_table, to_json

        findings = diagnose()
    if as_json:
        click.echo(to_json(findings))
    else:
        Console().print(render_table(findings))
    if any(finding.status == "problem" for finding in findings):
        sys.exit(1)
