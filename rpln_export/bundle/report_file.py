"""The file of a report in the folder of a bundle, which is looked for before anything heavy is imported."""

from pathlib import Path
from typing import Final

from rpln_export.errors import ReportError

REPORT_NAME: Final = "report.json"


def find_report(folder: Path) -> Path:
    """Return the path of the report of the bundle in `folder`. Raises ReportError for a folder without one."""
    path = folder / REPORT_NAME
    if not path.is_file():
        raise ReportError(f"{folder} holds no {REPORT_NAME}: expected a bundle. Make one with rpln-export.")
    return path
