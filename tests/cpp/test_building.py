"""Tests of C++ are skipped, or fail in CI, where a tool is missing, and drivers report every error they find."""

import sys
from pathlib import Path

import pytest

from tests.cpp import building


@pytest.mark.parametrize(("ci", "outcome"), [("false", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_tool_is_named(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(outcome, match=r"g\+\+, cmake, clang, make.*\.ci/install-tools"):
        building.build(tmp_path)


def test_a_driver_answers_until_it_finds_something() -> None:
    script = "import sys; print(input(), flush=True); input(); sys.exit('a leak')"
    driver = building.Driver(sys.executable, "-c", script)
    assert driver.ask({"a": 1}) == {"a": 1}
    with pytest.raises(AssertionError, match="a leak"):
        driver.ask(None)


def test_what_a_driver_finds_as_it_stops_is_not_lost() -> None:
    driver = building.Driver(sys.executable, "-c", "import sys; print(input(), flush=True); sys.exit('a leak')")
    assert driver.ask(5) == 5
    with pytest.raises(AssertionError, match="a leak"):
        driver.stop()
