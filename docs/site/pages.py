"""The files of the repository that are pages of the site, where they lie in it, and how their links are rewritten.

1. A page of docs/ keeps its path. Another Markdown file of the repository lies in source/.
2. A link to another file of the repository leads to a page in source/ that shows the file, or the names of a folder's
   files, so that every link works on the site as it does in a clone.
3. Two kinds of lines are filled in: `<!-- commands -->` with the reference of the command line, and formulas between
   dollar signs, on the pages of FORMULAS, with MathML.
"""

import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from docs.site.commands import reference_of_commands
from docs.site.formulas import formulas_to_mathml

FORMULAS: Final = {"docs/algebra.md"}
"""The pages with formulas. On others a dollar sign is a dollar sign."""
COMMANDS: Final = "<!-- commands -->"
"""The line that becomes the reference of the command line."""
COPIED: Final = {".svg", ".png", ".json", ".yaml"}
"""What files end in that are copied as they are, to be shown or saved by a browser."""
SOURCE: Final = "source"
"""The folder of the site for what does not come from docs/."""
NO_SEARCH: Final = "---\nsearch:\n  exclude: true\n---\n\n"

CODE: Final = re.compile(r"^(?P<marks>`{3,}).*?^(?P=marks)[ ]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"(?<=\]\()(?!https?:|#)(?P<path>[^)#\s]+)")


def write_pages(root: Path) -> list[str]:
    """Write the pages into the site's `docs_dir` and return what is wrong with them, a sentence for each problem."""
    settings = tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]
    folder = root / settings["docs_dir"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(root / "docs/site/site.css", folder)
    own = sorted((root / "docs").rglob("*.md"))
    problems = list(_problems_of_navigation(own, settings["nav"], root))
    waiting = [*own, root / "CHANGELOG.md", root / "CONTRIBUTING.md", root / "benchmarks/README.md"]
    written: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in written:
            continue
        written.add(path)
        linked = _write_page(path, folder / place_of(path, root), root)
        waiting += filter(Path.exists, linked)
        problems += [
            f"{path.relative_to(root)} links to {os.path.relpath(link, root)}, which is not there."
            for link in linked
            if not link.exists()
        ]
    return problems


def _problems_of_navigation(pages: Iterable[Path], nav: list[dict[str, Any]], root: Path) -> Iterator[str]:
    """Yield a sentence for each page of docs/ that the navigation lacks, and for each that it has and docs/ lacks."""
    named = set(_names(nav))
    places = {place_of(page, root) for page in pages}
    for place in sorted(places - named):
        yield f"docs/{place} is missing from `nav` in zensical.toml. Name it there."
    for place in sorted(named - places):
        if not place.startswith(f"{SOURCE}/"):
            yield f"docs/{place} is named in `nav` of zensical.toml, but is not there. Leave it out, or write it."


def _write_page(path: Path, target: Path, root: Path) -> list[Path]:
    """Write what the site has of a file, and return the files of the repository that it links to."""
    linked: list[Path] = []
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in COPIED:
        shutil.copyfile(path, target)
    elif path.suffix == ".md":
        text, linked = _site_page(path, root)
        target.write_text(text, encoding="utf-8")
    else:
        target.write_text(_source_page(path, root), encoding="utf-8")
    return linked


def place_of(path: Path, root: Path) -> str:
    """Return the place of a file of the repository within the site's pages."""
    inside = path.relative_to(root)
    if inside.parts[0] == "docs" and path.suffix == ".md":
        return inside.relative_to("docs").as_posix()
    if inside.name == "README.md":  # which would be taken for the index of its folder
        inside = inside.with_name("about.md")
    suffix = "" if inside.suffix in {".md", *COPIED} else ".md"
    return f"{SOURCE}/{inside.as_posix().removeprefix('.')}{suffix}"  # Zensical leaves out hidden folders


def _site_page(path: Path, root: Path) -> tuple[str, list[Path]]:
    """Return the text of a page for the site, and the files of the repository that it links to."""
    linked: list[Path] = []
    here = Path(place_of(path, root)).parent

    def relink(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(path.parent / match["path"]))
        linked.append(target)
        return Path(os.path.relpath(place_of(target, root), here)).as_posix()

    def rewrite(prose: str) -> str:
        prose = LINK.sub(relink, prose)
        return formulas_to_mathml(prose) if path.relative_to(root).as_posix() in FORMULAS else prose

    text = "".join(part if is_code else rewrite(part) for part, is_code in _parts(path.read_text(encoding="utf-8")))
    if COMMANDS in text:
        text = text.replace(COMMANDS, reference_of_commands())
    return text, linked


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of a page in their order, each with whether it is code, in a block or within a line."""
    end = 0
    for match in CODE.finditer(text):
        yield text[end : match.start()], False
        yield match[0], True
        end = match.end()
    yield text[end:], False


def _source_page(path: Path, root: Path) -> str:
    """Return a page that shows a file, or the names in a folder. The site's search leaves it out."""
    title = f"{NO_SEARCH}# `{path.relative_to(root).as_posix()}`\n\n"
    if path.is_dir():
        names = sorted(f"{item.name}/" if item.is_dir() else item.name for item in path.iterdir())
        return title + "".join(f"- `{name}`\n" for name in names if not name.startswith(("_", ".")))
    language = {".py": "python", ".hpp": "cpp", ".cpp": "cpp", ".h": "c"}.get(path.suffix, "text")
    return f"{title}````{language}\n{path.read_text(encoding='utf-8').rstrip()}\n````\n"


def _names(nav: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the pages that the navigation names."""
    for item in nav:
        for value in item.values():
            if isinstance(value, str):
                yield value
            else:
                yield from _names(value)
