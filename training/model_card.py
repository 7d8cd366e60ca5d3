"""The model cards beside the checkpoints: templates of training/cards, filled in with the figures of metrics.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.tags import TAGS

_ENVIRONMENT: Final = Environment(  # noqa: S701 - Markdown, not HTML
    loader=FileSystemLoader(Path(__file__).with_name("cards")),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {
    "percent": lambda share: f"{share:.2%}",
    "digits": lambda number, count: f"{number:,.{count}f}",
    "thousands": lambda number: f"{number:,}",
    "millions": lambda number: f"{number / 1e6:.2f}",
    "cell": lambda text: text.replace("|", "\\|").replace("\n", " "),
}


def card_from_metrics(template: str, metrics: Mapping[str, Any]) -> str:
    """Return the card; `template` is a file in training/cards, and `metrics` what metrics.json holds.

    Raises jinja2.UndefinedError, or TypeError where the figure is formatted, if the metrics lack one.
    """
    return _ENVIRONMENT.get_template(template).render(metrics=metrics, tags=TAGS, **metrics)


def write_card(folder: Path, template: str, metrics: Mapping[str, Any]) -> None:
    """Write the card as README.md into `folder`."""
    (folder / "README.md").write_text(card_from_metrics(template, metrics), encoding="utf-8")
