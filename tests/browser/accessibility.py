"""axe's rules of accessibility, applied to a page in a browser."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def violations(page: Page) -> list[str]:
    """Return the rules of axe that the page breaks, each with the elements that break it."""
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}\n" + "\n".join(f"  {node['html'][:200]}" for node in rule["nodes"])
        for rule in found
    ]
