"""What the case restorer learns: to write a sentence that is given without capitals and punctuation marks.

mr fisk asked if the us could wait   ->   Mr. Fisk asked if the U.S. could wait.
"""

import re
from collections.abc import Sequence
from typing import Final

from training.brown import Document, Sentence, Word
from training.plain_text import text_from_words

_QUOTATION_MARKS: Final = frozenset({"``", "''", "`", "'"})
_UNSUITABLE: Final = re.compile(r'[()\[\]"]')  # brackets; the quotation marks that are left are inches and seconds
_MARKS: Final = re.compile(r"(?<!\d)[.,;:?!]|[.,;:?!](?!\d)|^--$")  # 3.5, 1,000 and 5:30 stay as they are


def bare_text(text: str) -> str:
    """Return the text without capitals and punctuation marks: the restorer's input."""
    return " ".join(filter(None, map(bare_word, text.split())))


def bare_word(word: str) -> str:
    """Return `word`, a part of a written text between two spaces, without capitals and marks; "" for a lone mark."""
    return _MARKS.sub("", word).lower()


def written_sentences(documents: Sequence[Document]) -> list[str]:
    """Return the documents' sentences without quotation marks; sentences with brackets are left out."""
    texts = (_text(sentence) for document in documents for sentence in document.sentences)
    return [text for text in texts if bare_text(text) and not _UNSUITABLE.search(text)]


def _text(sentence: Sentence) -> str:
    return text_from_words([word for word in sentence if not _is_quotation_mark(word)]).text


def _is_quotation_mark(word: Word) -> bool:
    return word.text in _QUOTATION_MARKS
