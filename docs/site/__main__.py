"""`python -m docs.site` builds the documentation into build/docs/site, and fails at the first thing that is wrong.

A broken link or anchor, a page that the navigation lacks, and a name in the reference that the code lacks are errors.
With `--serve` the site is shown at http://localhost:8000 instead.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

from docs.site.pages import write_pages

ROOT: Final = Path(__file__).parents[2]


def main() -> int:
    """Write the pages, build the site of them or serve it, and return the exit code."""
    problems = write_pages(ROOT)
    if problems:
        sys.stderr.write("".join(f"{problem}\n" for problem in problems))
        return 1
    action = ["serve"] if "--serve" in sys.argv[1:] else ["build", "--clean", "--strict"]
    return subprocess.run([sys.executable, "-m", "zensical", *action], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
