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
_MASKED_TEXTS: Final = {"brown": "files of the Brown corpus", "mails": "mails"}
_FILTERED_TEXTS: Final = {"test": "the first 128 tokens", "test_of_32_tokens": "the first 32 tokens"}
_CHOSEN_TEXTS: Final = {"ends": "the end of a sentence", "next sentences": "the next sentence"}
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


def write_masked_lm_card(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write README.md into `folder`; `metrics` is what metrics.json holds."""
    brown = metrics["brown"]
    by_text = [
        f"| {title} | {who} | {score['accuracy']:.2%} | {score['accuracy_of_five']:.2%} | {score['perplexity']:.1f} |"
        for corpus, title in _MASKED_TEXTS.items()
        for who, score in metrics[corpus].items()
    ]
    examples = [
        f"| {one['text']} | {', '.join(f'{token} {share:.2f}' for token, share in one['fillings'].items())} |"
        for one in metrics["examples"]
    ]
    _write(
        folder,
        "masked_lm.md",
        metrics,
        accuracy=f"{brown['model']['accuracy']:.2%}",
        baseline_accuracy=f"{brown['bigrams on both sides']['accuracy']:.2%}",
        perplexity=f"{brown['model']['perplexity']:.1f}",
        baseline_perplexity=f"{brown['bigrams on both sides']['perplexity']:.1f}",
        before_accuracy=f"{brown['bigrams']['accuracy']:.2%}",
        before_perplexity=f"{brown['bigrams']['perplexity']:.1f}",
        masks=f"{brown['model']['masks']:,}",
        mail_masks=f"{metrics['mails']['model']['masks']:,}",
        by_text="\n".join(by_text),
        examples="\n".join(examples),
    )


def write_spam_filter_card(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write README.md into `folder`; `metrics` is what metrics.json holds."""
    by_length = [
        f"| {title} | {who} | {score['f1']:.3f} | {score['precision']:.3f} | {score['recall']:.3f} "
        f"| {score['accuracy']:.2%} |"
        for test, title in _FILTERED_TEXTS.items()
        for who, score in metrics[test].items()
    ]
    examples = [f"| {one['text']} | {one['spam']:.3f} |" for one in metrics["examples"]]
    _write(
        folder,
        "spam_filter.md",
        metrics,
        f1=f"{metrics['test']['model']['f1']:.3f}",
        baseline_f1=f"{metrics['test']['naive Bayes']['f1']:.3f}",
        short_f1=f"{metrics['test_of_32_tokens']['model']['f1']:.3f}",
        short_baseline_f1=f"{metrics['test_of_32_tokens']['naive Bayes']['f1']:.3f}",
        test_mails=f"{metrics['test']['model']['mails']:,}",
        train_mails=f"{metrics['training']['mails']:,}",
        by_length="\n".join(by_length),
        examples="\n".join(examples),
    )


def write_answerer_card(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write README.md into `folder`; `metrics` is what metrics.json holds."""
    test = metrics["test"]
    by_model = [f"| {who} | {test[who]['exact']:.2%} | {test[who]['f1']:.3f} |" for who in ("model", "words beside")]
    examples = [f"| {one['question']} | {one['answer']} |" for one in metrics["examples"]]
    _write(
        folder,
        "question_answerer.md",
        metrics,
        exact=f"{test['model']['exact']:.2%}",
        baseline_exact=f"{test['words beside']['exact']:.2%}",
        questions=f"{test['model']['questions']:,}",
        context=metrics["examples"][0]["context"],
        by_model="\n".join(by_model),
        examples="\n".join(examples),
    )


def write_chooser_card(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write README.md into `folder`; `metrics` is what metrics.json holds."""
    ends, following = metrics["test"]["ends"], metrics["test"]["next sentences"]
    by_kind = [
        f"| {title} | {score['model']:.2%} | {score['tf-idf']:.2%} | {score['items']:,} |"
        for title, score in ((title, metrics["test"][kind]) for kind, title in _CHOSEN_TEXTS.items())
    ]
    examples = [
        f"| {one['prompt']} | {_in_a_cell(choice)} | {probability:.2f} | {'right' if place == one['answer'] else ''} |"
        for one in metrics["examples"]
        for place, (choice, probability) in enumerate(zip(one["choices"], one["probabilities"], strict=True))
    ]
    _write(
        folder,
        "chooser.md",
        metrics,
        ends_model=f"{ends['model']:.2%}",
        ends_baseline=f"{ends['tf-idf']:.2%}",
        next_model=f"{following['model']:.2%}",
        next_baseline=f"{following['tf-idf']:.2%}",
        by_kind="\n".join(by_kind),
        examples="\n".join(examples),
    )


def write_embedder_card(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write README.md into `folder`; `metrics` is what metrics.json holds."""
    kind, genre, examples = metrics["test"]["kind"], metrics["test"]["genre"], metrics["examples"]
    by_model = [f"| {who} | {kind[who]:.2%} | {genre[who]:.2%} |" for who in ("model", "fill-mask model", "tf-idf")]
    cosines = [
        f"| {text} | {' | '.join(f'{value:.2f}' for value in row)} |"
        for text, row in zip(examples["texts"], examples["cosines"], strict=True)
    ]
    _write(
        folder,
        "embedder.md",
        metrics,
        share=f"{kind['model']:.2%}",
        baseline_share=f"{kind['tf-idf']:.2%}",
        genre_share=f"{genre['model']:.2%}",
        baseline_genre_share=f"{genre['tf-idf']:.2%}",
        passages=f"{kind['passages']:,}",
        passages_with_genre=f"{genre['passages']:,}",
        by_model="\n".join(by_model),
        cosines="\n".join(cosines),
    )


def _write(folder: Path, template: str, metrics: Mapping[str, Any], **values: str) -> None:
    training = metrics["training"]
    text = Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(
        training, millions=f"{training['parameters'] / 1e6:.2f}", **values
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
