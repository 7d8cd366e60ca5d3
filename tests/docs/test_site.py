"""The documentation site: what its builder refuses, what becomes of links and formulas, what the reference names."""

import re
from pathlib import Path

import click
import cloup
import pytest

pytest.importorskip("zensical", reason='the extra docs is not installed: pip install "rpln-export[docs]"')

from docs.site.__main__ import OUTSIDE, build
from docs.site.commands import reference_of_commands
from docs.site.formulas import formulas_to_mathml
from docs.site.pages import place_of, write_pages
from rpln_export.cli import export_command, rpln_command

ROOT = Path(__file__).parents[2]
SETTINGS = """
[project]
site_name = "example"
docs_dir = "build/pages"
site_dir = "build/site"
nav = [{ "Start" = "index.md" }, { "Other" = "guides/other.md" }]
[project.theme]
font = false
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a small repository with two pages and a source file."""
    files = {
        "zensical.toml": SETTINGS,
        "CHANGELOG.md": "# Changes\n",
        "CONTRIBUTING.md": "# Contributing\n",
        "benchmarks/README.md": "# Benchmarks\n",
        "code/run.py": "print('hello')\n",
        "docs/site/site.css": "",
        "docs/index.md": "# Start\n\nSee [the other](guides/other.md#a-part) there.\n",
        "docs/guides/other.md": "## A part\n\n[one](../../code/run.py), [all](../../code), [up](../index.md)\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_site_is_built_in_which_every_link_leads_to_a_page(repository: Path) -> None:
    assert build(repository) == 0
    site = repository / "build/site"
    other = (site / "guides/other/index.html").read_text(encoding="utf-8")
    assert "source/code/run.py" in other
    assert "hello" in (site / "source/code/run.py/index.html").read_text(encoding="utf-8")
    assert "run.py" in (site / "source/code/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "link", ["guides/other.md#no-such-part", "#no-such-part"], ids=["of another page", "of the same page"]
)
def test_an_anchor_that_is_not_there_fails_the_build(repository: Path, link: str) -> None:
    (repository / "docs/index.md").write_text(f"# Start\n\n[a link]({link})\n")
    assert build(repository) != 0


def test_a_name_in_the_reference_that_the_code_lacks_fails_the_build(repository: Path) -> None:
    plugin = '[project.plugins.mkdocstrings.handlers.python]\npaths = ["code"]\n'
    (repository / "zensical.toml").write_text(SETTINGS + plugin)
    (repository / "docs/index.md").write_text("# Start\n\n::: run.no_such_name\n")
    assert build(repository) != 0


def test_a_page_that_the_navigation_lacks_is_named(repository: Path) -> None:
    (repository / "docs/lost.md").write_text("# Lost\n")
    (problem,) = write_pages(repository)
    assert problem.startswith("docs/lost.md is missing from `nav`")


def test_a_page_that_only_the_navigation_has_is_named(repository: Path) -> None:
    (repository / "docs/index.md").write_text("# Start\n")
    (repository / "docs/guides/other.md").unlink()
    (problem,) = write_pages(repository)
    assert problem.startswith("docs/guides/other.md is named in `nav`")


def test_a_file_that_is_linked_and_not_there_is_named(repository: Path) -> None:
    (repository / "docs/index.md").write_text("# Start\n\n[gone](../code/gone.py)\n")
    (problem,) = write_pages(repository)
    assert problem == "docs/index.md links to code/gone.py, which is not there."


def test_code_is_no_link(repository: Path) -> None:
    (repository / "docs/index.md").write_text("# Start\n\n```\n[gone](gone.md)\n```\n\nand `[gone](gone.md)`\n")
    assert write_pages(repository) == []


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("docs/index.md", "index.md"),
        ("docs/tutorials/export.md", "tutorials/export.md"),
        ("benchmarks/README.md", "source/benchmarks/about.md"),
        ("benchmarks/results/encoders.svg", "source/benchmarks/results/encoders.svg"),
        ("runtime/rpln_runtime/limits.py", "source/runtime/rpln_runtime/limits.py.md"),
        (".ci/run", "source/ci/run.md"),
    ],
)
def test_where_files_lie_on_the_site(path: str, place: str) -> None:
    assert place_of(ROOT / path, ROOT) == place


@pytest.mark.parametrize(
    ("html", "outside"),
    [
        ('<script src="https://example.org/a.js"></script>', True),
        ('<img alt="" src="//example.org/a.png">', True),
        ('<link rel="stylesheet" href="https://example.org/a.css">', True),
        ('<link rel="canonical" href="https://example.org/">', False),
        ('<script src="assets/a.js"></script>', False),
        ('<a href="https://example.org">a link</a>', False),
    ],
)
def test_what_a_page_would_fetch_from_elsewhere_is_found(html: str, *, outside: bool) -> None:
    assert bool(OUTSIDE.search(html)) is outside


# -- formulas, and the page that has them ---------------------------------------------------------------------------


def test_formulas_become_mathml_without_scripts() -> None:
    found = formulas_to_mathml("Where $x$ is\n\n$$\n\\sqrt{x} \\ne y\n$$\n\nit costs \\$5.")
    assert found.count("<math") == 2
    assert "<msqrt>" in found
    assert "$$" not in found
    assert "\\$5" in found
    assert "<script" not in found


def test_every_formula_of_the_algebra_is_understood() -> None:
    found = formulas_to_mathml((ROOT / "docs/algebra.md").read_text(encoding="utf-8"))
    assert "$" not in found
    assert re.findall(r"<mi>\\\w+</mi>|<mtext>\\", found) == []  # what latex2mathml does not know stays as it was


def test_the_tests_that_the_algebra_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/algebra.md").read_text(encoding="utf-8"))
    assert len(named) >= 12
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


# -- the reference of commands -----------------------------------------------------------------------------------------

COMMANDS = {"rpln-export": export_command, **{f"rpln {name}": row for name, row in rpln_command.commands.items()}}


@pytest.fixture(scope="module")
def chapters() -> dict[str, str]:
    parts = re.split(r"^## (.*)$", reference_of_commands(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_command_has_a_chapter(chapters: dict[str, str]) -> None:
    assert set(chapters) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_group_is_named(name: str, chapters: dict[str, str]) -> None:
    command, text = COMMANDS[name], chapters[name]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert all(option in text for option in (*parameter.opts, *parameter.secondary_opts))
    if isinstance(command, cloup.OptionGroupMixin):
        assert all(f"**{group.title}**" in text for group in command.option_groups)


def test_cells_of_tables_hold_no_bare_bars(chapters: dict[str, str]) -> None:
    for text in chapters.values():
        for row in re.findall(r"^\| .*$", text, re.MULTILINE):
            assert len(re.findall(r"(?<!\\)\|", row)) == 3, row
