"""The model cards beside the checkpoints: templates of training/cards with the figures of metrics.json in them."""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

from training.tags import TAGS

_TEMPLATES: Final = Path(__file__).with_name("cards")

_TAGGED_TEXTS: Final = {
    "test": "sentences as printed",
    "test_passages": "passages of up to 6 sentences, cut at 256 tokens",
    "test_typographic": "curly quotation marks and dashes",
    "test_lower_case": "all lower case, no full stop",
    "test_headlines": "Every Word Capitalised, no full stop",
    "dev": "sentences of the dev files (used for choices)",
}
_FORETELLERS: Final = {
    "test": "this model",
    "trigram": "trigrams, interpolated Kneser-Ney",
    "bigram": "bigrams, interpolated Kneser-Ney",
}
_RESTORERS: Final = {"test": "this model", "baseline": "word by word"}


def write_tagger_card(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write README.md into `folder`; `metrics` is what metrics.json holds."""
    test = metrics["test"]
    by_text = [
        f"| {title} | {metrics[name]['accuracy']:.2%} | {metrics[name]['macro_f1']:.3f} | {metrics[name]['words']:,} |"
        for name, title in _TAGGED_TEXTS.items()
    ]
    by_tag = [
        f"| `{tag}` | {score['precision']:.3f} | {score['recall']:.3f} | {score['f1']:.3f} | {score['words']:,} |"
        for tag, score in ((tag, test["tags"][tag]) for tag in TAGS)
    ]
    _write(
        folder,
        "pos_tagger.md",
        metrics,
        accuracy=f"{test['accuracy']:.2%}",
        macro_f1=f"{test['macro_f1']:.3f}",
        words=f"{test['words']:,}",
        by_text="\n".join(by_text),
        by_tag="\n".join(by_tag),
    )


def write_language_model_card(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write README.md into `folder`; `metrics` is what metrics.json holds."""
    test, bigram = metrics["test"], metrics["bigram"]
    by_model = [
        f"| {title} | {metrics[name]['token_perplexity']:.1f} | {metrics[name]['word_perplexity']:,.0f} |"
        for name, title in _FORETELLERS.items()
    ]
    examples = [f"| {one['how']} | {one['prompt']} | {_in_a_cell(one['text'])} |" for one in metrics["examples"]]
    _write(
        folder,
        "causal_lm.md",
        metrics,
        perplexity=f"{test['token_perplexity']:.1f}",
        bigram_perplexity=f"{bigram['token_perplexity']:.1f}",
        tokens=f"{test['tokens']:,}",
        words=f"{test['words']:,}",
        by_model="\n".join(by_model),
        examples="\n".join(examples),
    )


def write_restorer_card(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write README.md into `folder`; `metrics` is what metrics.json holds."""
    test, baseline = metrics["test"], metrics["baseline"]
    by_model = []
    for name, title in _RESTORERS.items():
        f1 = [metrics[name]["f1"], *metrics[name]["f1_of"].values()]
        by_model.append(f"| {title} | {metrics[name]['exact']:.2%} | {' | '.join(f'{value:.3f}' for value in f1)} |")
    examples = [f"| {one['bare']} | {one['restored']} | {one['written']} |" for one in metrics["examples"]]
    _write(
        folder,
        "case_restorer.md",
        metrics,
        f1=f"{test['f1']:.3f}",
        baseline_f1=f"{baseline['f1']:.3f}",
        marks_f1=f"{test['f1_of']['marks']:.3f}",
        baseline_marks_f1=f"{baseline['f1_of']['marks']:.3f}",
        words=f"{test['words']:,}",
        sentences=f"{metrics['training']['sentences']:,}",
        test_sentences=f"{test['sentences']:,}",
        kept=f"{test['kept']:.2%}",
        added=f"{test['added']:.2%}",
        by_model="\n".join(by_model),
        examples="\n".join(examples),
    )


def _write(folder: Path, template: str, metrics: Mapping[str, Any], **values: str) -> None:
    training = metrics["training"]
    text = Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(
        training, millions=f"{training['parameters'] / 1e6:.2f}", **values
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
