"""A headless Chromium, and pages that may load nothing from the network. `.ci/install-tools` installs Chromium."""

import os
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
QUIET = (
    "--no-sandbox",  # containers forbid what the sandbox needs
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Options of Chromium that keep the browser itself from asking for anything."""
LOCAL = {"localhost", "127.0.0.1"}
PATIENCE = 120_000
"""How many milliseconds a page may take for anything: no test is about its speed, and other tests run beside it."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return a browser. Without Chromium, tests of pages are skipped, or fail in CI."""
    if CHROMIUM is None:
        reason = "no chromium: .ci/install-tools installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def problems() -> list[str]:
    """Return the list of what goes wrong in `page`. A test that expects a problem clears it."""
    return []


@pytest.fixture
def page(browser: Browser, problems: list[str]) -> Iterator[Page]:
    """Return an empty page. The test fails if an error is logged in it, or if it asks for anything but local files.

    Files and servers on this machine are local. A test sets the scheme with `page.emulate_media(color_scheme="dark")`,
    and the size of a phone with `page.set_viewport_size({"width": 360, "height": 740})`.
    """
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE)
    page = context.new_page()

    def serve(route: Route) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in {"file", "data", "blob"} or address.hostname in LOCAL:
            route.continue_()
        else:
            problems.append(f"asked for {route.request.url}")
            route.abort()

    context.route("**/*", serve)
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert problems == []
