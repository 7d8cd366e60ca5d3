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


def test_what_a_run_shares_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []
    building.once(tmp_path / "stamp", lambda: made.append(1))
    building.once(tmp_path / "stamp", lambda: made.append(2))
    assert made == [1]
    with pytest.raises(ZeroDivisionError):
        building.once(tmp_path / "other", lambda: made.append(1 // 0))
    building.once(tmp_path / "other", lambda: made.append(3))
    assert made == [1, 3]
