"""`python -m docs.site` builds the documentation into build/docs/site, and fails if anything is wrong with it.

A broken link or anchor, a page that the navigation lacks, a name in the reference that the code lacks, and a page that
would fetch something from another server are errors. With `--serve` the site is shown at http://localhost:8000 instead.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from docs.site.pages import write_pages

ROOT: Final = Path(__file__).parents[2]

OUTSIDE: Final = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\ssrc=["']?(?:https?:)?//"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*\shref=["']?(?:https?:)?//"""
)
"""What a browser fetches from another server without being asked. A link in a text is no such thing."""


def main() -> int:
    """Build the site of this repository, or serve it, and return the exit code."""
    return build(ROOT, serve="--serve" in sys.argv[1:])


def build(root: Path, *, serve: bool = False) -> int:
    """Write the pages of the repository at `root` and build the site of them, or serve it; return the exit code."""
    problems = write_pages(root)
    if not problems:
        action = ["serve"] if serve else ["build", "--clean", "--strict"]
        code = subprocess.run([sys.executable, "-m", "zensical", *action], cwd=root, check=False).returncode
        if serve or code:
            return code
        problems = list(_requests_outside(root))
    sys.stderr.write("".join(f"{problem}\n" for problem in problems))
    return 1 if problems else 0


def _requests_outside(root: Path) -> Iterator[str]:
    """Yield a sentence for each built page that would fetch something from another server."""
    settings = tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]
    for page in sorted((root / settings["site_dir"]).rglob("*.html")):
        if found := OUTSIDE.search(page.read_text(encoding="utf-8")):
            yield f"{page.relative_to(root)} fetches something from another server: {found[0]}..."


if __name__ == "__main__":
    sys.exit(main())
