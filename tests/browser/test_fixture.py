"""The fixtures of these tests: what goes wrong in a page is noticed."""

from pathlib import Path

from playwright.sync_api import Page

from tests.browser.accessibility import violations


def opened(page: Page, folder: Path, body: str) -> None:
    file = folder / "page.html"
    file.write_text(f'<!doctype html><html lang="en"><title>Test</title><main>{body}</main></html>', encoding="utf-8")
    page.goto(file.as_uri())


def test_a_page_without_problems_has_none(page: Page, problems: list[str], tmp_path: Path) -> None:
    opened(page, tmp_path, "<h1>Fine</h1>")
    assert page.inner_text("h1") == "Fine"
    assert violations(page) == []
    assert problems == []


def test_a_request_that_leaves_the_machine_is_refused_and_noticed(
    page: Page, problems: list[str], tmp_path: Path
) -> None:
    opened(page, tmp_path, '<h1>Leaves</h1><img alt="" src="https://example.org/picture.png">')
    assert problems[0] == "asked for https://example.org/picture.png"
    problems.clear()


def test_errors_of_scripts_are_noticed(page: Page, problems: list[str], tmp_path: Path) -> None:
    opened(page, tmp_path, "<h1>Fails</h1><script>console.error('logged'); throw new Error('thrown')</script>")
    assert {"logged", "thrown"} <= set(problems)
    problems.clear()


def test_text_that_is_hard_to_read_breaks_a_rule(page: Page, tmp_path: Path) -> None:
    opened(page, tmp_path, '<h1 style="color: #eee">Pale</h1>')
    assert [rule.split(":")[0] for rule in violations(page)] == ["color-contrast"]
