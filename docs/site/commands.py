"""The reference of the command line, written from the commands themselves."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

import click
import cloup

from rpln_export.cli import export_command, rpln_command

MARK: Final = "\b"
"""What click puts before a paragraph that it does not rewrap."""


def reference_of_commands() -> str:
    """Return a chapter for `rpln-export` and for each command of `rpln`, in the order of `rpln --help`."""
    chapters = [_chapter(export_command, "rpln-export")]
    context = click.Context(rpln_command, info_name="rpln")
    for section in rpln_command.list_sections(context):
        chapters += [_chapter(command, f"rpln {name}") for name, command in section.commands.items()]
    return "\n".join(chapters)


def _chapter(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"## {name}", "", *_paragraphs(command.help or ""), "```", usage, "```", ""]
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    if arguments:
        lines += _table(
            "argument", ((row.make_metavar(context), getattr(row, "help", None) or "") for row in arguments)
        )
    for title, options in _groups(command, context):
        records = (option.get_help_record(context) for option in options)
        lines += [f"**{title}**", "", *_table("option", (record for record in records if record))]
    return "\n".join([*lines, *_paragraphs(command.epilog or "")])


def _groups(command: click.Command, context: click.Context) -> Iterator[tuple[str, list[click.Option]]]:
    """Yield the titles of a command's groups of options, each with its options that are shown."""
    groups = command.option_groups if isinstance(command, cloup.OptionGroupMixin) else []
    grouped = {id(option) for group in groups for option in group.options}
    for group in groups:
        yield group.title, [option for option in group.options if not option.hidden]
    others = [
        parameter
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and id(parameter) not in grouped and not parameter.hidden
    ]
    yield ("Other options" if groups else "Options"), others


def _table(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return a table of names, as code, and their meanings."""
    cells = ((name.replace("|", "\\|"), _escaped(meaning)) for name, meaning in rows)
    return [f"| {title} | meaning |", "|---|---|", *(f"| `{name}` | {meaning} |" for name, meaning in cells), ""]


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the lines of a help text or an epilog: click's mark for text that is not rewrapped begins a block."""
    for paragraph in re.split(r"\n\s*\n", text.replace(MARK, f"\n\n{MARK}")):
        if paragraph.lstrip().startswith(MARK):
            yield from ("```text", textwrap.dedent(paragraph.strip().removeprefix(MARK).strip("\n")), "```", "")
        elif paragraph.strip():
            yield from (_escaped(paragraph), "")


def _escaped(text: str) -> str:
    """Return a text in one line, in which what Markdown takes for markup is escaped."""
    return re.sub(r"([<>*_\[\]|])", r"\\\1", " ".join(text.split()))
