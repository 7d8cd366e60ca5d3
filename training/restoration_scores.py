"""The case restorer's scores, and its baseline, which looks at single words.

What a bare text lost at a word is its form, if that is not the bare one, and the marks behind it. Restored forms and
marks are scored as in information retrieval: by precision, recall and their harmonic mean F1.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import Final

from training.restoration import bare_word

_MARKS: Final = ".,;:?!"


@dataclass(frozen=True, slots=True)
class WrittenWord:
    """A word of a written text: its bare form, its written form without the marks behind it, and these marks."""

    bare: str
    form: str
    marks: str


@dataclass(frozen=True, slots=True, kw_only=True)
class F1:
    """The numbers of forms or marks in the written text, in the restored text, and alike in both."""

    wanted: int
    found: int
    correct: int

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, in 0..1."""
        return 2 * self.correct / max(self.wanted + self.found, 1)

    def __add__(self, other: "F1") -> "F1":
        return F1(
            wanted=self.wanted + other.wanted, found=self.found + other.found, correct=self.correct + other.correct
        )


_FINDINGS: Final[Mapping[str, Callable[[WrittenWord], str]]] = MappingProxyType(
    {
        "capitals": lambda word: "" if word.form == word.bare else word.form,
        "marks": lambda word: word.marks,
        "commas": lambda word: "," if "," in word.marks else "",
        "question marks": lambda word: "?" if "?" in word.marks else "",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorationScores:
    """Numbers of words, and the F1 of capitals, of marks, and of two kinds of marks alone.

    `kept` words have the letters of the written text, `exact` words its capitals and marks as well, and `added` words
    are not in the written text.
    """

    words: int
    kept: int
    exact: int
    added: int
    findings: Mapping[str, F1]

    @property
    def both(self) -> F1:
        """The F1 of capitals and marks counted together."""
        return self.findings["capitals"] + self.findings["marks"]


def restoration_scores(wanted: Sequence[str], restored: Sequence[str]) -> RestorationScores:
    """Return the scores of restored texts; at a word that was lost or changed, nothing counts as restored."""
    texts = [(written_words(one), written_words(other)) for one, other in zip(wanted, restored, strict=True)]
    pairs = [pair for one, other in texts for pair in _same_words(one, other)]
    here = [word for one, _ in texts for word in one]
    there = [word for _, other in texts for word in other]
    return RestorationScores(
        words=len(here),
        kept=len(pairs),
        exact=sum(one == other for one, other in pairs),
        added=len(there) - len(pairs),
        findings={
            name: F1(
                wanted=sum(bool(finding(word)) for word in here),
                found=sum(bool(finding(word)) for word in there),
                correct=sum(bool(finding(one)) and finding(one) == finding(other) for one, other in pairs),
            )
            for name, finding in _FINDINGS.items()
        },
    )


def written_words(text: str) -> list[WrittenWord]:
    """Return the words of a written text; a dash between two spaces is a mark of the word before it."""
    words: list[WrittenWord] = []
    for piece in text.split():
        bare = bare_word(piece)
        if bare:
            form = piece.rstrip(_MARKS)
            words.append(WrittenWord(bare, form, piece[len(form) :]))
        elif words:
            last = words[-1]
            words[-1] = WrittenWord(last.bare, last.form, last.marks + piece)
    return words


class WordByWord:
    """The baseline: every word as the training texts write it most often, a capital first, a full stop at the end."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Count how the texts write each word that is neither their first nor their last."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            for word in written_words(text)[1:-1]:
                counts[word.bare][word.form + word.marks] += 1
        self._written = {bare: written.most_common(1)[0][0] for bare, written in counts.items()}

    def restore(self, bare: str) -> str:
        """Return the text that single words suggest for `bare`, a text made by `bare_text`."""
        text = " ".join(self._written.get(word, word) for word in bare.split())
        return text[:1].upper() + text[1:].rstrip(",;:") + ("" if text.endswith((".", "?", "!")) else ".")


def _same_words(one: Sequence[WrittenWord], other: Sequence[WrittenWord]) -> Iterator[tuple[WrittenWord, WrittenWord]]:
    matcher = SequenceMatcher(None, [word.bare for word in one], [word.bare for word in other], autojunk=False)
    for here, there, size in matcher.get_matching_blocks():
        yield from zip(one[here : here + size], other[there : there + size], strict=True)
