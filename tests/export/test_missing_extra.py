"""Without onnxruntime nothing is exported, and the first message says how to install it."""

import sys
from pathlib import Path

import pytest

from rpln_export.plan.export_plan import make_plan
from rpln_runtime.errors import MissingExtraError


def test_the_pip_command_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(MissingExtraError, match=r'pip install "rpln-export\[cpu\]"'):
        make_plan(None, task="token-classification", destination=tmp_path / "out")

    assert list(tmp_path.iterdir()) == []
