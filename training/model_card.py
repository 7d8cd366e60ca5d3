"""The model card beside the checkpoint, with the figures of metrics.json in it."""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

from training.tags import TAGS

_TEMPLATE: Final = Path(__file__).with_name("model_card.md")
_TEXTS: Final = {
    "test": "sentences as printed",
    "test_passages": "passages of up to 6 sentences, cut at 256 tokens",
    "test_typographic": "curly quotation marks and dashes",
    "test_lower_case": "all lower case, no full stop",
    "test_headlines": "Every Word Capitalised, no full stop",
    "dev": "sentences of the dev files (used for choices)",
}


def write_model_card(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write README.md into `folder`; `metrics` is what metrics.json holds."""
    test = metrics["test"]
    by_text = [
        f"| {title} | {metrics[name]['accuracy']:.2%} | {metrics[name]['macro_f1']:.3f} | {metrics[name]['words']:,} |"
        for name, title in _TEXTS.items()
    ]
    by_tag = [
        f"| `{tag}` | {score['precision']:.3f} | {score['recall']:.3f} | {score['f1']:.3f} | {score['words']:,} |"
        for tag, score in ((tag, test["tags"][tag]) for tag in TAGS)
    ]
    card = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        metrics["training"],
        accuracy=f"{test['accuracy']:.2%}",
        macro_f1=f"{test['macro_f1']:.3f}",
        words=f"{test['words']:,}",
        by_text="\n".join(by_text),
        by_tag="\n".join(by_tag),
        millions=f"{metrics['training']['parameters'] / 1e6:.2f}",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
