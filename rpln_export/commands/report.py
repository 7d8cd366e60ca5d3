"""`rpln report`: write the page of a bundle anew, or compare bundles in one page."""

from collections.abc import Sequence
from pathlib import Path

import click
import cloup

from rpln_export.commands.settings import HELP
from rpln_export.commands.user_errors import user_errors


@cloup.command(
    "report", context_settings=HELP, short_help="Write the page of a bundle anew, or compare bundles in one page."
)
@cloup.argument(
    "folders",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    help="Bundles. One alone gets its page; of two or more, the facts stand side by side.",
)
@cloup.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The page to write. It must not lie in a bundle, whose manifest has the hash of every file.",
)
def report_command(folders: Sequence[Path], output: Path) -> None:
    """Write one page about the bundles in FOLDERS, from their report.json. It needs no network, only a browser.

    \b
    rpln report tagger -o tagger.html
    rpln report tagger-fp32 tagger-fp16 tagger-int8
    """
    with user_errors(interrupted="Interrupted."):
        from rpln_export.commands.show.progress import ProgressWatcher

        with ProgressWatcher("drawing"):
            from rpln_export.bundle.report_file import find_report

            for folder in folders:
                find_report(folder)

            from rpln_export.bundle.pages.page import page_from_report, save_page
            from rpln_export.bundle.pages.side_by_side import page_from_reports, side_by_side
            from rpln_export.bundle.reading import report_from_folder
            from rpln_export.bundle.verdict import verdict_from_report
            from rpln_export.commands.show.side_by_side import print_side_by_side

            reports = {str(folder): report_from_folder(folder) for folder in folders}
            first, *others = reports.values()
            save_page(page_from_reports(reports) if others else page_from_report(first), output)
        if others:
            print_side_by_side(side_by_side(reports))
        else:
            for sentence in verdict_from_report(first).sentences:
                click.echo(sentence)
        click.echo(f"{output}: open it in a browser")
