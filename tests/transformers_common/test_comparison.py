"""What `make test-transformers` reports, and what it accepts."""

from pathlib import Path

import pytest

from tests.transformers_common import run
from tests.transformers_common.exceptions import Excepted
from tests.transformers_common.run import FAILED, PASSED, SKIPPED, compared, outcomes_from_report

MODEL = "RobertaPreLayerNormModel"


@pytest.fixture(autouse=True)
def _two_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (Excepted(tests="test_sdpa*", because="None here."), Excepted(tests="test_old", because="Gone.", lines=(4,)))
    monkeypatch.setattr(run, "EXCEPTIONS", rows)


def test_what_passes_on_theirs_alone_is_named_unless_it_is_an_exception() -> None:
    theirs = {(MODEL, f"test_{name}"): PASSED for name in ("fails", "skips", "gone", "sdpa_1", "equal")}
    theirs[MODEL, "test_fails_on_both"] = FAILED
    ours = {(MODEL, "test_fails"): FAILED, (MODEL, "test_skips"): SKIPPED, (MODEL, "test_sdpa_1"): FAILED}
    ours |= {(MODEL, "test_equal"): PASSED, (MODEL, "test_fails_on_both"): FAILED}
    assert [line.split()[1] + " " + line.split()[-1] for line in compared(theirs, ours, line=5)] == [
        "test_fails failed.",
        "test_gone missing.",
        "test_skips skipped.",
    ]


@pytest.mark.parametrize(("line", "needless"), [(5, ["test_sdpa*"]), (4, ["test_sdpa*", "test_old"])])
def test_an_exception_that_is_not_needed_is_named(line: int, needless: list[str]) -> None:
    outcomes = {(MODEL, "test_sdpa_1"): PASSED, (MODEL, "test_old"): PASSED}
    assert [complaint.split()[0] for complaint in compared(outcomes, outcomes, line=line)] == needless


def test_a_test_is_as_good_as_its_worst_subtest(tmp_path: Path) -> None:
    cases = "".join(
        f'<testcase classname="tests.suite.Test{MODEL}" name="{name}">{child}</testcase>'
        for name, child in (
            ("test_a", ""),
            ("test_a", "<failure/>"),
            ("test_a", ""),
            ("test_b", "<skipped/>"),
            ("test_c", ""),
        )
    )
    (tmp_path / "report.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert outcomes_from_report(tmp_path / "report.xml") == {
        (MODEL, "test_a"): FAILED,
        (MODEL, "test_b"): SKIPPED,
        (MODEL, "test_c"): PASSED,
    }
