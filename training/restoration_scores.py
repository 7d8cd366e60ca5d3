"""How much of the lost capitals and punctuation marks is restored, and a baseline that looks at single words.

A text is words with what was lost at each: its form, where that is not the bare one, and the marks behind it. These
findings are counted as in information retrieval: precision, recall and their harmonic mean F1.
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
    """A word as `bare_text` leaves it, as it is written without the marks behind it, and these marks."""

    bare: str
    form: str
    marks: str


@dataclass(frozen=True, slots=True, kw_only=True)
class F1:
    """Findings of the text, findings of the model, and how many of both agree."""

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
    """Scores over the words of texts, and over what was lost at them: capitals, marks, and two kinds of marks alone.

    `kept` words came through with their letters, `exact` ones with their capitals and marks as well; `added` ones were
    not in the text.
    """

    words: int
    kept: int
    exact: int
    added: int
    findings: Mapping[str, F1]

    @property
    def both(self) -> F1:
        """Capitals and marks counted together."""
        return self.findings["capitals"] + self.findings["marks"]


def restoration_scores(wanted: Sequence[str], restored: Sequence[str]) -> RestorationScores:
    """Compare restored texts with the written ones. A word that was lost or changed has lost what was at it, too."""
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
    """Return the words of a written text; a dash between two spaces is a mark behind the word before it."""
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
    """Writes every word as training texts do most often; the first begins with a capital, a full stop ends the text."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Count how the words inside the texts are written, which are those between the first and the last."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            for word in written_words(text)[1:-1]:
                counts[word.bare][word.form + word.marks] += 1
        self._written = {bare: written.most_common(1)[0][0] for bare, written in counts.items()}

    def restore(self, bare: str) -> str:
        """Return the text that `bare_text` made `bare` of, as far as single words tell."""
        text = " ".join(self._written.get(word, word) for word in bare.split())
        return text[:1].upper() + text[1:].rstrip(",;:") + ("" if text.endswith((".", "?", "!")) else ".")


def _same_words(one: Sequence[WrittenWord], other: Sequence[WrittenWord]) -> Iterator[tuple[WrittenWord, WrittenWord]]:
    matcher = SequenceMatcher(None, [word.bare for word in one], [word.bare for word in other], autojunk=False)
    for here, there, size in matcher.get_matching_blocks():
        yield from zip(one[here : here + size], other[there : there + size], strict=True)
