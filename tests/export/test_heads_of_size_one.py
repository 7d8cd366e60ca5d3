"""Heads of size 1 export in every form: their scale is 1, so that there is none to fold."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rpln_export.cli import export_command
from rpln_graphs.forms import FORMS
from rpln_runtime.manifest import read_manifest
from tests.export.checkpoints import make_checkpoint
from tests.sharing import made_once, shared_folder


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with as many heads as features."""
    sizes: dict[str, Any] = {"hidden_size": 8, "num_attention_heads": 8, "num_hidden_layers": 1}

    def make(folder: Path) -> None:
        folder.mkdir()
        make_checkpoint(folder, "text-classification", **sizes)

    return made_once(shared_folder(tmp_path_factory) / "narrow", make)


@pytest.mark.parametrize(
    ("form", "precision"), [*((form, "fp32") for form in ("none", *FORMS)), ("auto", "fp16"), ("auto", "bf16")]
)
def test_heads_of_size_one_export_in_every_form(
    narrow: Path, tmp_path: Path, traced_once: None, form: str, precision: str
) -> None:
    options = ["--optimize", form, "--precision", precision, "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(export_command, [str(narrow), *options])
    assert result.exit_code == 0, result.output
    assert read_manifest(tmp_path / "out").passes.get("FoldQueryScale", 0) == 0
