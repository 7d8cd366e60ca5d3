"""Write the texts that the embedded checkpoints are quantized with unless the user gives others.

    python -m training.calibration_sets [--data FOLDER]

Each checkpoint's folder gets calibration.jsonl: texts like those that the checkpoint was trained on, from documents of
the training part, as `rpln-export --calibration` reads them.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from training.brown import Document
from training.choices import next_sentences
from training.corpora import brown_split, mail_split
from training.examples import texts_of, varied_texts
from training.held_out_sample import mail_beginnings
from training.mails import Mail
from training.options import CHECKPOINTS, data_parser
from training.plain_text import text_from_words
from training.questions import questions_of
from training.restoration import bare_text, written_sentences

FILE: Final = "calibration.jsonl"
_MASK: Final = "<mask>"
_PASSAGES: Final = 64
"""How many passages there are, each of many decisions, or of none."""
_DECISIONS: Final = 400
"""How many texts there are where each is a single decision. A quarter of them is held back and tells 99% from less."""
_QUESTIONS: Final = 200
"""How many questions there are, each with two decisions."""
_SENTENCES: Final = 6
_SEED: Final = 64

Line = Mapping[str, str]


class _Corpora(NamedTuple):
    """The training parts, and a source of random choices."""

    documents: Sequence[Document]
    mails: Sequence[Mail]
    rng: random.Random


def main() -> None:
    """Write the file of every task."""
    data: Path = data_parser("Write the calibration texts of the embedded checkpoints.").parse_args().data
    documents, mails = brown_split(data).train, mail_split(data).train
    for task, lines_of in _LINES.items():
        lines = lines_of(_Corpora(documents, mails, random.Random(_SEED)))
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        (CHECKPOINTS / task / FILE).write_text(text, encoding="utf-8")


def _varied(corpora: _Corpora) -> Iterator[Line]:
    """Yield passages of several lengths and styles."""
    texts = varied_texts(corpora.documents, rng=corpora.rng)
    yield from ({"text": text.text} for text in corpora.rng.sample(texts, _PASSAGES))


def _passages(corpora: _Corpora) -> Iterator[Line]:
    texts = texts_of(corpora.documents, sentences=_SENTENCES)
    yield from ({"text": text.text} for text in corpora.rng.sample(texts, _PASSAGES))


def _masked(corpora: _Corpora) -> Iterator[Line]:
    """Yield passages with a mask in the place of a word of each sentence."""
    starts = [
        (document, start)
        for document in corpora.documents
        for start in range(0, len(document.sentences) - _SENTENCES, _SENTENCES)
    ]
    for document, start in corpora.rng.sample(starts, _PASSAGES):
        sentences = map(text_from_words, document.sentences[start : start + _SENTENCES])
        places = [(sentence, corpora.rng.randrange(len(sentence.starts))) for sentence in sentences]
        yield {
            "text": " ".join(
                sentence.text[: sentence.starts[place]] + _MASK + sentence.text[sentence.ends[place] :]
                for sentence, place in places
            )
        }


def _mails(corpora: _Corpora) -> Iterator[Line]:
    yield from ({"text": line["text"]} for line in mail_beginnings(corpora.mails, _DECISIONS, rng=corpora.rng))


def _questions(corpora: _Corpora) -> Iterator[Line]:
    questions = questions_of(corpora.documents, rng=corpora.rng)
    for one in corpora.rng.sample(questions, _QUESTIONS):
        yield {"text": one.question, "text_pair": one.context}


def _choices(corpora: _Corpora) -> Iterator[Line]:
    """Yield prompts with what follows them. What follows others serves as the other choices."""
    for item in corpora.rng.sample(next_sentences(corpora.documents, rng=corpora.rng), _DECISIONS):
        yield {"text": item.prompt, "text_pair": item.choices[item.answer]}


def _bare(corpora: _Corpora) -> Iterator[Line]:
    """Yield sentences without capitals and marks."""
    yield from ({"text": bare_text(one)} for one in corpora.rng.sample(written_sentences(corpora.documents), _PASSAGES))


_LINES: Final[Mapping[str, Callable[[_Corpora], Iterator[Line]]]] = {
    "feature-extraction": _passages,
    "fill-mask": _masked,
    "multiple-choice": _choices,
    "question-answering": _questions,
    "text-classification": _mails,
    "text-generation": _passages,
    "text2text-generation": _bare,
    "token-classification": _varied,
}


if __name__ == "__main__":
    main()
