"""Checks the pages of the documentation: links resolve, options exist, and Python blocks print what the pages say.

On the pages in PAGES_THAT_RUN every block marked `python` is run, all blocks of a page in one namespace, in a folder
with the bundles of BUNDLES. A block marked `text` directly after it is its expected output. Numbers may differ by 0.02.
On the page about int8, the commands of blocks marked `sh` run as well, and make the bundles that its Python code opens.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rpln_export.cli import INTERRUPTED, export_command, rpln_command
from rpln_export.pipeline import export
from rpln_export.plan.export_plan import make_plan
from rpln_model import RplnModelError
from rpln_runtime import RplnError
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import Postprocess
from rpln_runtime.tasks import TASKS
from tests.export.checkpoints import make_checkpoint
from tests.export.conftest import do_not_measure, share_traces

ROOT = Path(__file__).parents[1]
DOCUMENTATION = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PAGES = [*DOCUMENTATION, *sorted(ROOT.glob("[a-z]*/README.md"))]
PAGES_THAT_RUN = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("bundle", "running", "generation", "batch", "python")),
]

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"(?<!\S)(--?[a-z][a-z0-9-]*)")
NUMBER = re.compile(r"\d+\.\d+")

BUNDLES = {
    "embedder": "feature-extraction",
    "filler": "fill-mask",
    "classifier": "text-classification",
    "reader": "question-answering",
    "chooser": "multiple-choice",
}
"""Bundles of tiny checkpoints that the pages use beside the tagger's, by the name that they have on the pages."""


def names_of(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


# -- links -----------------------------------------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings: lower case, without punctuation, with hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names_of(PAGES))
def test_links_resolve(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    linked = {target for target, _ in LINK.findall(index) if not target.startswith("../")}
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages - {"index.md"} == linked


# -- options, exit codes ---------------------------------------------------------------------------------------------


def options_of(command: click.Command) -> set[str]:
    return {
        "--help",
        *(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)),
    }


COMMANDS = {
    "rpln-export": options_of(export_command),
    **{f"rpln {name}": options_of(command) for name, command in rpln_command.commands.items()},
}


def commands_in(page: Path) -> Iterator[str]:
    """Return the command lines of a page, from blocks and from sentences, without comments."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for _, block in FENCE.findall(text)]
    pieces = [*(line for block in blocks for line in block.splitlines()), *INLINE.findall(FENCE.sub("", text))]
    for piece in pieces:
        yield piece.strip().removeprefix("$ ").split("  #")[0]


@pytest.mark.parametrize("page", DOCUMENTATION, ids=names_of(DOCUMENTATION))
def test_options_exist(page: Path) -> None:
    every = set().union(*COMMANDS.values())
    unknown = []
    for line in commands_in(page):
        name = next((name for name in COMMANDS if line == name or line.startswith(f"{name} ")), None)
        known = COMMANDS[name] if name else every if line.startswith("--") else None
        if known is not None:
            unknown += [f"{option} in {line!r}" for option in OPTION.findall(line) if option not in known]
    assert unknown == []


def test_every_option_of_an_export_is_explained() -> None:
    page = (ROOT / "docs/exporting.md").read_text(encoding="utf-8")
    options = {option for option in COMMANDS["rpln-export"] if option.startswith("--")} - {"--help", "--version"}
    assert sorted(option for option in options if option not in page) == []


def test_every_option_of_a_pipeline_is_explained() -> None:
    documented: dict[str, set[str]] = {}
    task = ""
    for line in (ROOT / "docs/running.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            _, first, second, *_ = line.split("|")
            task = first.strip() or task  # a task is named only in its first row
            documented.setdefault(task, set()).update(INLINE.findall(second))
    shared = {field.name for field in dataclasses.fields(Postprocess)}
    for row in TASKS.values():
        if row.postprocess is not None:
            options = {field.name for field in dataclasses.fields(POSTPROCESS[row.postprocess])}
            assert documented[row.name] == options - shared


PACKAGES = [ROOT / "rpln_export", ROOT / "graphs/rpln_graphs", ROOT / "model/rpln_model", ROOT / "runtime/rpln_runtime"]
ERROR_CLASS = re.compile(r"^class \w+Error\((?!Exception|ValueError)", re.MULTILINE)


def test_the_page_of_exit_codes_names_every_error_under_its_code() -> None:
    page = (ROOT / "docs/exit-codes.md").read_text(encoding="utf-8")
    chapters = {
        int(code): text for code, text in re.findall(r"^## (\d+):(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    }
    named = {
        name: code
        for code, text in chapters.items()
        for line in re.findall(r"^Classes: (.*)\.$", text, re.MULTILINE)
        for name in INLINE.findall(line)
    }
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            if ERROR_CLASS.search(path.read_text(encoding="utf-8")):
                importlib.import_module(".".join(path.relative_to(package.parent).with_suffix("").parts))

    codes = {kind.__name__: kind.exit_code for base in (RplnError, RplnModelError) for kind in kinds_of(base)}
    assert named == codes
    assert set(chapters) == {0, INTERRUPTED, *codes.values()}


def kinds_of(kind: type[RplnError] | type[RplnModelError]) -> Iterator[type[RplnError] | type[RplnModelError]]:
    """Return an error and all that are derived from it within the project."""
    if kind.__module__.partition(".")[0].startswith("rpln_"):
        yield kind
    for narrower in kind.__subclasses__():
        yield from kinds_of(narrower)


# -- Python blocks ---------------------------------------------------------------------------------------------------


def blocks_with_output(page: Path) -> list[tuple[str, str]]:
    """Return the page's Python blocks, each with the output that the page gives for it."""
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    following = [*blocks[1:], ("", "")]
    return [
        (code, text if kind == "text" else "")
        for (language, code), (kind, text) in zip(blocks, following, strict=True)
        if language == "python"
    ]


@pytest.fixture(scope="module")
def folder_of_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for task, precision in (("token-classification", "fp16"), ("text-generation", "fp32")):
        plan = make_plan(None, task=task, precision=precision)
        export(dataclasses.replace(plan, destination=folder / plan.destination))
    for name, task in BUNDLES.items():
        # The embedder is as wide as the tagger, because the page prints the size of its vectors.
        checkpoint = make_checkpoint(tmp_path_factory.mktemp(task), task, hidden_size=128, num_hidden_layers=1)
        export(make_plan(str(checkpoint), destination=folder / name))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=names_of(PAGES_THAT_RUN))
def test_python_blocks_print_what_the_page_says(
    page: Path, folder_of_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder_of_bundles)
    namespace: dict[str, object] = {}
    blocks = blocks_with_output(page)
    assert blocks
    for code, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)  # noqa: S102 - the project's own documentation
        assert NUMBER.sub("#", printed.getvalue()) == NUMBER.sub("#", expected)
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed.getvalue(), expected)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.02)


# -- the page about int8 -----------------------------------------------------------------------------------------------

QUANTIZATION = ROOT / "docs" / "quantization.md"
MAILS = ROOT / "tests" / "export" / "data" / "mails_test_sample.jsonl"


@pytest.mark.slow
def test_the_tutorial_on_int8_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mails = [json.loads(line) for line in MAILS.read_text(encoding="utf-8").splitlines()]
    labelled = [{"text": mail["text"], "label": "spam" if mail["spam"] else "ham"} for mail in mails]
    (tmp_path / "mails.jsonl").write_text("\n".join(map(json.dumps, labelled)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    do_not_measure(monkeypatch)
    share_traces(monkeypatch, {})
    blocks = [code for language, code in FENCE.findall(QUANTIZATION.read_text(encoding="utf-8")) if language == "sh"]
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 4
    for line in commands:
        name, *arguments = shlex.split(line)
        result = CliRunner().invoke({"rpln-export": export_command, "rpln": rpln_command}[name], arguments)
        assert result.exit_code == 0, f"{line}: {result.output}"
    for code, expected in blocks_with_output(QUANTIZATION):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})  # noqa: S102 - the project's own documentation
        assert printed.getvalue() == expected
