"""Measures what 8 and 4 bits cost each embedded checkpoint on documents that it was not trained on.

`python -m benchmarks.embedded_metrics` fetches the corpora (`make data`), makes examples for `rpln eval` of their test
parts, exports each checkpoint in fp32 and quantized, and compares metrics and decisions on these examples. Encoders
are exported in static int8 under a gate: 99.5% of the decisions on their own calibration texts, and 0.3 points of the
metric on examples of the corpora's development parts. Decoders get weights of 8 and of 4 bits. The table goes to
benchmarks/results/embedded-metrics.md.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.machine import describe_machine, versions_of
from rpln_export import Bundle, export
from rpln_export.evaluation.evaluate import Evaluation, evaluate
from rpln_export.evaluation.examples import read_examples
from rpln_export.evaluation.runners import runner_from_bundle
from training.brown import Document
from training.choices import next_sentences
from training.corpora import brown_split, mail_split
from training.examples import texts_of
from training.genres import equal_passages
from training.mails import Mail
from training.options import ROOT
from training.questions import questions_of
from training.restoration import bare_text, written_sentences
from training.spam import LABELS

RESULTS: Final = Path(__file__).with_name("results") / "embedded-metrics.md"
EXAMPLES: Final = 400
"""How many examples of each task there are at most."""
PASSAGES: Final = 60
"""How many passages there are where each token is an example, or nearly so."""
SENTENCES: Final = 6
MAIL_WORDS: Final = 60
AGREEMENT: Final = 0.995
DROP: Final = 0.3

Examples = Iterable[Mapping[str, Any]]


class Corpora(NamedTuple):
    """The documents of a part, and a source of random choices."""

    documents: list[Document]
    mails: list[Mail]
    rng: random.Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A task, what makes its examples, and the quantized forms that are compared, each with its precision."""

    task: str
    examples: Callable[[Corpora], Examples]
    forms: Mapping[str, str]

    def write(self, corpora: Corpora, file: Path) -> Path:
        """Write the examples as lines of JSON."""
        file.write_text("".join(f"{json.dumps(example)}\n" for example in self.examples(corpora)), encoding="utf-8")
        return file


def tagged(corpora: Corpora) -> Examples:
    """Yield sentences with the tags of their words."""
    for text in corpora.rng.sample(texts_of(corpora.documents), EXAMPLES):
        words = [text.text[start:end] for start, end in zip(text.starts, text.ends, strict=True)]
        yield {"text": text.text, "words": words, "labels": text.tags}


def passages(corpora: Corpora) -> Examples:
    """Yield passages."""
    for text in corpora.rng.sample(texts_of(corpora.documents, sentences=SENTENCES), PASSAGES):
        yield {"text": text.text}


def mails(corpora: Corpora) -> Examples:
    """Yield the beginnings of all mails."""
    for mail in corpora.mails:
        yield {"text": " ".join(mail.text.split()[:MAIL_WORDS]), "label": LABELS[mail.is_spam]}


def questions(corpora: Corpora) -> Examples:
    """Yield questions with their answers."""
    for one in corpora.rng.sample(questions_of(corpora.documents, rng=corpora.rng), EXAMPLES):
        yield {"question": one.question, "context": one.context, "answers": [one.answer]}


def choices(corpora: Corpora) -> Examples:
    """Yield prompts with the sentence that follows, among others."""
    for item in corpora.rng.sample(next_sentences(corpora.documents, rng=corpora.rng), EXAMPLES):
        yield {"prompt": item.prompt, "choices": item.choices, "label": item.answer}


def alike(corpora: Corpora) -> Iterator[Mapping[str, Any]]:
    """Yield pairs of passages, and whether both are of one kind of prose."""
    drawn = equal_passages(corpora.documents, sentences=SENTENCES)
    for _ in range(EXAMPLES):
        one, other = corpora.rng.sample(drawn, 2)
        yield {"text1": one.text, "text2": other.text, "score": float(one.kind == other.kind)}


def restored(corpora: Corpora) -> Examples:
    """Yield sentences without capitals and marks, and as they were written."""
    for text in corpora.rng.sample(written_sentences(corpora.documents), EXAMPLES):
        yield {"text": bare_text(text), "target": text}


STATIC: Final = {"static": "int8-static"}
WEIGHTS: Final = {"weights-8": "int8-weight-only", "weights-4": "int4"}
TRIALS: Final = (
    Trial(task="token-classification", examples=tagged, forms=STATIC),
    Trial(task="text-classification", examples=mails, forms=STATIC),
    Trial(task="question-answering", examples=questions, forms=STATIC),
    Trial(task="multiple-choice", examples=choices, forms=STATIC),
    Trial(task="fill-mask", examples=passages, forms=STATIC),
    Trial(task="feature-extraction", examples=alike, forms=STATIC),
    Trial(task="text-generation", examples=passages, forms=WEIGHTS),
    Trial(task="text2text-generation", examples=restored, forms=WEIGHTS),
)


def main() -> None:
    """Measure every trial, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="the folder of the corpora")
    arguments = parser.parse_args()
    documents, spam = brown_split(arguments.data), mail_split(arguments.data)
    rows: list[str] = []
    for trial in TRIALS:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            gate = trial.write(Corpora(documents.dev, spam.dev, random.Random(1)), work / "dev.jsonl")
            data = trial.write(Corpora(documents.test, spam.test, random.Random(0)), work / "test.jsonl")
            for found in measure(trial, gate, data, work):
                rows.append(found)
                print(found, flush=True)
    RESULTS.write_text("\n".join([*head(), *rows, ""]), encoding="utf-8")


def measure(trial: Trial, gate: Path, data: Path, work: Path) -> Iterator[str]:
    """Yield a row of the table for each quantized form of a checkpoint."""
    before = evaluated(export(task=trial.task, optimize="standard", output=work / "fp32", progress=False), data)
    gated: dict[str, Any] = {}
    if trial.forms == STATIC:
        gated = {"min_agreement": AGREEMENT, "evaluation": gate, "max_drop": DROP}
    for form, precision in trial.forms.items():
        bundle = export(
            task=trial.task, precision=precision, optimize=form, output=work / precision, progress=False, **gated
        )
        yield row(trial.task, precision, before, evaluated(bundle, data), kept=kept_blocks(bundle))


def evaluated(bundle: Bundle, data: Path) -> Evaluation:
    """Return the metrics of a bundle, as `rpln eval --truncate --provider cpu` does."""
    runner = runner_from_bundle(bundle.path, provider="cpu")
    return evaluate(runner, read_examples(data, runner.manifest, runner.tokenizer, truncation=True))


def kept_blocks(bundle: Bundle) -> int:
    """Return how many blocks the gate left in fp32."""
    (form,) = json.loads((bundle.path / "report.json").read_text(encoding="utf-8"))["quantization"]["forms"]
    return len(form["curve"][-1]["kept"])


def row(task: str, precision: str, before: Evaluation, after: Evaluation, *, kept: int) -> str:
    """Return the row of a quantized form: its main metric beside that in fp32, and the share of equal decisions."""
    name = next(iter(before.metrics))
    one, other = before.metrics[name], after.metrics[name]
    share = "perplexity" not in name
    shown = (f"{100 * one:.2f}", f"{100 * other:.2f}") if share else (f"{one:.2f}", f"{other:.2f}")
    change = f"{100 * (other - one):+.2f} points" if share else f"{100 * (other / one - 1):+.2f}%"
    pairs = zip(before.decisions, after.decisions, strict=True)
    equal = [a == b for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True)]
    agreement = f"{sum(equal) / len(equal):.2%} of {len(equal):,}" if equal else ""
    cells = (task, precision, before.examples, name, *shown, change, agreement, kept)
    return f"| {' | '.join(map(str, cells))} |"


def head() -> Iterator[str]:
    """Yield the lines above the rows."""
    machine = describe_machine(threads=1)
    versions = versions_of(["onnxruntime", "torch", "transformers", "rpln-export"])
    yield from ("# What 8 and 4 bits cost the embedded checkpoints", "")
    yield "Examples are of documents that no checkpoint was trained on. Shares are in per cent. Decisions are compared"
    yield "with those in fp32. Blocks are those that the gate left in fp32:"
    yield f"{AGREEMENT:.1%} of the decisions on calibration texts, and {DROP} points of the metric on examples of other"
    yield "documents. Weights of 8 and 4 bits have the default gate."
    yield from ("", f"{machine['processor']}; {', '.join(f'{name} {version}' for name, version in versions.items())}")
    yield from ("", "| task | precision | examples | metric | fp32 | quantized | change | equal decisions | blocks |")
    yield "|---|---|---|---|---|---|---|---|---|"


if __name__ == "__main__":
    main()
