"""Bundles to compile in tests: exported as users do, but not proven again, which other tests are about."""

import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rpln_export import pipeline
from rpln_export.cli import export_command
from rpln_export.proof import Proof

Exporter = Callable[..., Path]

VARIANTS: dict[str, Sequence[str]] = {
    "text-generation": ["--variants=prefill,decode,full"],
    "text2text-generation": ["--variants=prefill,decode,full"],
}
"""Of decoders: all that can be compiled."""


def do_not_prove(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exports take their graphs for right."""
    monkeypatch.setattr(pipeline, "prove", lambda *_, **__: Proof(comparisons=[], notes=[]))


def make_exporter(checkpoint: Callable[[str], Path], make_folder: Callable[[], Path]) -> Exporter:
    """Task, or a checkpoint's folder, and options -> the folder of its bundle without engines, which is not changed."""

    @functools.cache
    def export(source: str | Path, *options: str) -> Path:
        folder = make_folder() / "bundle"
        arguments = [str(source if isinstance(source, Path) else checkpoint(source)), "-o", str(folder), *options]
        result = CliRunner().invoke(export_command, [*arguments, "--engine", "none"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return folder

    return export


def copied(bundle: Path, parent: Path) -> Path:
    """A copy of a bundle, to be changed."""
    return Path(shutil.copytree(bundle, parent / "bundle"))


def ignore(*_: Any) -> None:
    """No one watches how far a build is."""
