"""Write the samples of held-out documents by which tests score the embedded checkpoints.

    python -m training.held_out_sample [--data FOLDER]

A line of `brown_test_sample.jsonl` is a sentence of a test file: its text, the place where each word starts, and the
tags of the words. A line of `brown_test_passages.jsonl` is six sentences in a row of a test file, with the file's name
and genre. A line of `mails_test_sample.jsonl` is the beginning of a test mail, and whether it is spam.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from training.brown import Document
from training.corpora import brown_split, mail_split
from training.examples import texts_of
from training.mails import Mail
from training.options import ROOT, data_parser
from training.plain_text import text_from_words

_SAMPLES: Final = ROOT / "tests" / "export" / "data"
_SENTENCES: Final = 180
_SENTENCES_OF_PASSAGE: Final = 6
_PASSAGES_OF_FILE: Final = 2
_MAILS: Final = 80
_MAIL_WORDS: Final = 60
_UNFIT: Final = re.compile(
    r"@|sex|porn|xxx|nude|adult|teen|girl|slut|viagra|penis|breast|erect|horny|fuck|shit|bitch|god|kill", re.IGNORECASE
)
_SEED: Final = 1961


def main() -> None:
    """Draw the samples at random from all test documents."""
    data: Path = data_parser("Write the held-out samples that tests use.").parse_args().data
    documents, mails = brown_split(data).test, mail_split(data).test
    _write("brown_test_sample.jsonl", _sentences(documents))
    _write("brown_test_passages.jsonl", _passages(documents))
    _write("mails_test_sample.jsonl", mail_beginnings(mails, _MAILS, rng=random.Random(_SEED)))


def _sentences(documents: list[Document]) -> Iterable[Mapping[str, Any]]:
    for text in random.Random(_SEED).sample(texts_of(documents), _SENTENCES):
        yield {"text": text.text, "starts": text.starts, "tags": " ".join(text.tags)}


def _passages(documents: list[Document]) -> Iterable[Mapping[str, Any]]:
    rng = random.Random(_SEED)
    for document in documents:
        starts = range(0, len(document.sentences) - _SENTENCES_OF_PASSAGE + 1, _SENTENCES_OF_PASSAGE)
        for start in sorted(rng.sample(starts, _PASSAGES_OF_FILE)):
            sentences = document.sentences[start : start + _SENTENCES_OF_PASSAGE]
            texts = [text_from_words(sentence).text for sentence in sentences]
            yield {"document": document.name, "genre": document.genre, "sentences": texts}


def mail_beginnings(mails: Sequence[Mail], count: int, *, rng: random.Random) -> Iterator[Mapping[str, Any]]:
    """Yield `count` beginnings, as many of ham as of spam, without addresses and words that hurt a reader."""
    for is_spam in (False, True):
        fit = [mail for mail in mails if mail.is_spam == is_spam and not _UNFIT.search(mail.text)]
        for mail in rng.sample(fit, count // 2):
            yield {"spam": mail.is_spam, "text": " ".join(mail.text.split()[:_MAIL_WORDS])}


def _write(name: str, lines: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (_SAMPLES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
