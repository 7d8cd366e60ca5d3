"""The reference of the command line, written from the commands themselves."""

import re
from collections.abc import Iterator

import click
import cloup

from rpln_export.cli import export_command, rpln_command


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
    lines = [f"## {name}", "", _sentences(command.help or ""), "", "```", usage, "```", ""]
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    if arguments:
        rows = ((f"`{argument.make_metavar(context)}`", getattr(argument, "help", "") or "") for argument in arguments)
        lines += _table("argument", rows)
    for title, options in _groups(command, context):
        rows = ((_spelling(option, context), _description(option, context)) for option in options)
        lines += [f"**{title}**", "", *_table("option", rows)]
    if command.epilog:
        lines += ["```text", _unwrapped(command.epilog), "```", ""]
    return "\n".join(lines)


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


def _spelling(option: click.Option, context: click.Context) -> str:
    """Return how an option is written, such as `-o`, `--output` FOLDER."""
    record = option.get_help_record(context)
    assert record is not None
    return f"`{_in_cell(record[0])}`"


def _description(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    assert record is not None
    return _sentences(record[1])


def _table(title: str, rows: Iterator[tuple[str, str]]) -> list[str]:
    return [f"| {title} | meaning |", "|---|---|", *(f"| {name} | {_in_cell(text)} |" for name, text in rows), ""]


def _sentences(text: str) -> str:
    """Return a help text as Markdown: what Markdown takes for markup is escaped."""
    return re.sub(r"([<>*_\[\]|])", r"\\\1", " ".join(text.replace("\b", "").split()))


def _in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|") if "\\|" not in text else " ".join(text.split())


def _unwrapped(epilog: str) -> str:
    """Return an epilog as `--help` prints it: the mark of click for text that is not rewrapped is left out."""
    return epilog.replace("\b\n", "").strip("\n")
