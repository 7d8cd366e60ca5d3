"""Pages in Markdown, by the templates in the folder templates/ of this package."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def markdown_from_template(template: str, **context: Any) -> str:
    """Return the page that the template of this name makes of `context`."""
    environment = Environment(
        loader=PackageLoader("rpln_export.bundle"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 # markdown, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**context)
