"""report.html in a browser: it is quiet, accessible, readable in light and dark, on a phone and on paper."""

import dataclasses
from pathlib import Path

import pytest
from playwright.sync_api import Page

from rpln_export.bundle.pages.page import SECTIONS, page_from_report
from rpln_export.bundle.pages.side_by_side import page_from_reports
from rpln_export.bundle.reading import report_from_folder
from rpln_export.bundle.report import QuantizationReport, QuantizedFormReport, Report, TriedGraph
from rpln_runtime.manifest import Candidate
from tests.browser.accessibility import violations
from tests.embedded import embedded_bundle

NAME = "<script>alert(1)</script>"
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return a report in which every section has something to show, of a checkpoint whose name is a script."""
    bundle = report_from_folder(embedded_bundle(tmp_path_factory, "token-classification", precision="fp16"))
    tried = [
        TriedGraph(
            way="min-max",
            kept=["encoder.layer.0"] * kept,
            rms=0.01 / (1 + kept),
            largest=0.1,
            agreement=0.99,
            decisions=400,
            drop=None,
        )
        for kept in range(3)
    ]
    form = QuantizedFormReport(form="static", tried=tried[:1], curve=tried, costs={}, holds=True)
    candidates = tuple(
        Candidate(
            variant="full",
            form=form,
            provider="cpu",
            speedup=speed,
            speedup_low=speed - 0.1,
            speedup_high=speed + 0.1,
            outcome=outcome,
        )
        for form, speed, outcome in (("standard", 1.0, "measured"), ("fused", 1.6, "chosen"))
    )
    return dataclasses.replace(
        bundle,
        name=NAME,
        quantization=QuantizationReport(
            measured=64, held_back=32, gate="at least 99.0% of the decisions", metric="", forms=[form]
        ),
        optimization=dataclasses.replace(bundle.optimization, candidates=candidates),
    )


@pytest.fixture(scope="module")
def pages(report: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the page of one bundle, and that of two side by side."""
    folder = tmp_path_factory.mktemp("pages")
    texts = {"one": page_from_report(report), "two": page_from_reports({"a bundle": report, NAME: report})}
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


PAGES = pytest.mark.parametrize("name", ["one", "two"])


@PAGES
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_rules_of_accessibility_hold(
    page: Page, pages: dict[str, Path], name: str, scheme: str, size: dict[str, int]
) -> None:
    page.set_viewport_size({"width": size["width"], "height": size["height"]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


@PAGES
def test_a_checkpoint_that_is_named_like_a_script_is_harmless(
    page: Page, problems: list[str], pages: dict[str, Path], name: str
) -> None:
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.goto(pages[name].as_uri())
    assert NAME in page.inner_text("h1")


def test_ids_are_unique_and_links_lead_to_sections(page: Page, pages: dict[str, Path]) -> None:
    page.goto(pages["one"].as_uri())
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))
    assert set(SECTIONS) <= set(ids)
    assert page.locator("figure svg[role=img]").count() == 4
    for link in page.locator("nav a").all():
        link.click()
        assert page.locator(":target").count() == 1


def test_buttons_copy_the_code(page: Page, pages: dict[str, Path]) -> None:
    page.goto(pages["one"].as_uri())
    buttons = page.locator("button")
    assert buttons.count() == 4
    for button, code in zip(buttons.all(), page.locator("pre").all(), strict=True):
        button.click()
        page.wait_for_function("(button) => button.textContent === 'Copied'", arg=button.element_handle())
        assert page.evaluate("navigator.clipboard.readText()") == code.text_content()


@PAGES
def test_dark_pages_are_dark_and_paper_is_white(page: Page, pages: dict[str, Path], name: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(pages[name].as_uri())
    assert brightness(page, "section h2", "color") > 200
    assert brightness(page, "section:not(.verdict)", "background-color") < 60
    page.emulate_media(color_scheme="dark", media="print")
    assert brightness(page, "section h2", "color") < 60
    assert brightness(page, "svg text", "fill") < 60
    assert not page.locator("nav, button").filter(visible=True).count()
    assert page.pdf().startswith(b"%PDF")


def brightness(page: Page, selector: str, property_name: str) -> float:
    """Return the mean of red, green and blue, from 0 to 255, of an element's colour."""
    colour = page.eval_on_selector(
        selector, "(element, name) => getComputedStyle(element).getPropertyValue(name)", property_name
    )
    parts = [float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    return sum(parts) / 3
