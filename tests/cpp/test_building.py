"""Where a tool lacks, the tests of C++ are skipped and say what to install; where CI=true they fail."""

from pathlib import Path

import pytest

from tests.cpp import building


@pytest.mark.parametrize(("ci", "outcome"), [("false", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_tool_is_named(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(outcome, match=r"not tested without g\+\+, cmake, clang, make: run .ci/install-tools"):
        building.build(tmp_path)
