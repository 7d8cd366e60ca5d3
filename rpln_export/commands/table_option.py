"""Options whose choices are the rows of a table, which help lists and shells complete. They are read when asked for."""

from collections.abc import Callable, Iterable
from typing import Any

import click
import cloup
from click.shell_completion import CompletionItem


class TableOption(cloup.Option):
    """An option that takes the name of a table's row.

    `rows` returns the names in the order that help lists them; they stand in place of {rows} in the text of `help`.
    """

    def __init__(self, *arguments: Any, rows: Callable[[], Iterable[str]], help: str, **attributes: Any) -> None:  # noqa: A002 # click's name
        super().__init__(*arguments, help=help, **attributes)
        self._rows = rows
        self._text = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return what help shows of the option: its names and its text, with the rows of the table."""
        self.help = self._text.replace("{rows}", ", ".join(self._rows()))
        return super().get_help_record(ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 # click's signature
        """Return the names of rows that a shell offers behind `incomplete`, the last of names with commas between."""
        before, comma, begun = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{name}") for name in self._rows() if name.startswith(begun)]


def tasks() -> Iterable[str]:
    """Return the names of the tasks."""
    from rpln_runtime.tasks import TASKS

    return TASKS


def precisions() -> Iterable[str]:
    """Return the names of the precisions."""
    from rpln_graphs.recipes import RECIPES

    return RECIPES


def forms() -> Iterable[str]:
    """Return the names of the forms."""
    from rpln_graphs.forms import FORMS

    return FORMS


def optimizations() -> Iterable[str]:
    """Return what --optimize takes: auto, none, and the names of the forms."""
    from rpln_export.plan.choices import AUTO, NONE
    from rpln_graphs.forms import ALL_FORMS

    return (AUTO, NONE, *ALL_FORMS)


def targets() -> Iterable[str]:
    """Return the names of the targets."""
    from rpln_export.plan.targets import TARGETS

    return TARGETS


def workloads() -> Iterable[str]:
    """Return the names of the workloads."""
    from rpln_export.plan.workloads import WORKLOADS

    return WORKLOADS


def variants() -> Iterable[str]:
    """Return the names of a decoder's variants."""
    from rpln_runtime.tasks import DECODERS

    return DECODERS


def poolings() -> Iterable[str]:
    """Return the names of the ways to pool hidden states."""
    from rpln_export.plan.choices import NONE
    from rpln_runtime.tasks import POOLINGS

    return (*POOLINGS, NONE)


def trace_methods() -> Iterable[str]:
    """Return the names of the ways to trace a network's layers."""
    from rpln_graphs.trace_methods import TRACE_METHODS

    return TRACE_METHODS


def io_dtypes() -> Iterable[str]:
    """Return the names of the types that float inputs and outputs may have."""
    from rpln_graphs.recipes import IO_DTYPES

    return IO_DTYPES


def builders() -> Iterable[str]:
    """Return the names of the TensorRTs that build engines."""
    from rpln_graphs.tensorrt.backends import BACKENDS

    return BACKENDS


def engines() -> Iterable[str]:
    """Return what an export's --engine takes: auto, none, and the names of the TensorRTs."""
    from rpln_export.plan.choices import AUTO, NONE

    return (AUTO, NONE, *builders())


def providers() -> Iterable[str]:
    """Return the names of the providers."""
    from rpln_runtime.engines.providers import PROVIDERS

    return PROVIDERS
