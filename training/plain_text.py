"""Running text, as people write it, from tagged words, and the place of each word in the text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from training.brown import CLOSING_MARKS, OPENING_MARKS, Word


class Case(Enum):
    """A way to write the letters of words."""

    AS_IS = "as is"
    LOWER = "lower"
    UPPER = "upper"
    TITLE = "title"


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """A way to write a text: its letters, whether quotation marks and dashes are typographic, and its final stop."""

    case: Case = Case.AS_IS
    typographic: bool = False
    final_stop: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedText:
    """A text and its words in order: word i is `text[starts[i]:ends[i]]` and has the tag `tags[i]`."""

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    tags: tuple[str, ...]


AS_PRINTED: Final = Style()

_RECASE: Final[Mapping[Case, Callable[[str], str]]] = MappingProxyType(
    {
        Case.AS_IS: lambda word: word,
        Case.LOWER: str.lower,
        Case.UPPER: str.upper,
        Case.TITLE: lambda word: word[:1].upper() + word[1:],
    }
)
_PLAIN_SIGNS: Final = {"``": '"', "''": '"', "`": "'"}
_TYPOGRAPHIC_SIGNS: Final = {"``": "“", "''": "”", "`": "‘", "'": "’", "--": "—"}


def text_from_words(words: Sequence[Word], *, style: Style = AS_PRINTED) -> TaggedText:
    """Return the words as running text, with no space before marks nor inside brackets and quotation marks."""
    signs = _TYPOGRAPHIC_SIGNS if style.typographic else _PLAIN_SIGNS
    if not style.final_stop and len(words) > 1 and words[-1].text == ".":
        words = words[:-1]
    text = ""
    starts, ends = [], []
    attach = True  # the text's first word has no space before it
    for word in words:
        if not attach and word.text not in CLOSING_MARKS:
            text += " "
        attach = word.text in OPENING_MARKS
        starts.append(len(text))
        text += _written(_RECASE[style.case](word.text), signs)
        ends.append(len(text))
    return TaggedText(text=text, starts=tuple(starts), ends=tuple(ends), tags=tuple(word.tag for word in words))


def _written(word: str, signs: Mapping[str, str]) -> str:
    for corpus_sign, sign in signs.items():
        word = word.replace(corpus_sign, sign)
    return word
