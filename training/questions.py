"""Questions made of tagged sentences: a noun phrase or a number is asked for by the words beside it.

    The old man walked to the boat, and his crew watched the stars.

    Who walked to the boat?  ->  The old man              (a noun phrase before a verb)
    His crew watched what?   ->  the stars                (a noun phrase behind a verb or a preposition)
    How many ...?                                         (a number before a noun)

The context of a question is a few sentences of the document, this one among them.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from training.brown import Document, Sentence, Word
from training.plain_text import text_from_words

_POSSESSIVES: Final = frozenset({"his", "her", "its", "their", "my", "our", "your"})
_IN_PHRASES: Final = frozenset({"DET", "ADJ", "NUM", "NOUN"})
_TITLES: Final = frozenset(
    {"Mr.", "Mrs.", "Miss", "Dr.", "Sen.", "Rep.", "Gov.", "Gen.", "President", "Judge", "Senator"}
)
_PEOPLE: Final = frozenset(
    {
        *("man", "woman", "boy", "girl", "men", "women", "people", "child", "children", "lady", "gentleman", "crew"),
        *("father", "mother", "wife", "husband", "son", "daughter", "brother", "sister", "uncle", "aunt"),
        *("friend", "friends", "doctor", "officer", "teacher", "student", "students", "driver", "captain"),
    }
)
_MARK: Final = "."
_BETWEEN_CLAUSES: Final = frozenset({_MARK, "CONJ"})
_SUBJECTS: Final = frozenset({"NOUN", "PRON"})
_NOT_LAST: Final = frozenset({"DET", "ADP", "CONJ", "PRT", "ADJ"})
_ANSWER_WORDS: Final = range(1, 9)
_MOST_WORDS: Final = 9  # of a question, without the question word
_CONTEXT_SENTENCES: Final = range(2, 5)
_LONGEST_CONTEXT: Final = 75  # words


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, its context, and the place of the answer, `context[start:end]`."""

    question: str
    context: str
    start: int
    end: int

    @property
    def answer(self) -> str:
        """The answer, a part of the context."""
        return self.context[self.start : self.end]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A question whose answer is the words of a sentence in the range `answer`."""

    question: str
    answer: range


def questions_of(documents: Sequence[Document], *, rng: random.Random) -> list[Question]:
    """Return a random question for every sentence that has any, in a random context."""
    return [
        question
        for document in documents
        for place, sentence in enumerate(document.sentences)
        if (asked := _drawn(sentence, rng)) and (question := _in_context(asked, document, place, rng))
    ]


def _drawn(sentence: Sentence, rng: random.Random) -> _Asked | None:
    asked = [*_asked_of_phrases(sentence), *_asked_of_numbers(sentence)]
    return rng.choice(asked) if asked else None


def _asked_of_phrases(sentence: Sentence) -> Iterator[_Asked]:
    for phrase in _noun_phrases(sentence):
        if len(phrase) not in _ANSWER_WORDS:
            continue
        words = sentence[phrase.start : phrase.stop]
        who = "who" if _is_person(words) else "what"
        before, after = _words_before(sentence, phrase.start), _words_after(sentence, phrase.stop)
        if not before and after and after[0].tag == "VERB":
            first = "Who" if _is_person(words) or _is_name(words) else "What"  # who does something is mostly a person
            yield _Asked(question=f"{first} {text_from_words(after).text}?", answer=phrase)
        if before and before[-1].tag in {"VERB", "ADP"} and _has_subject_and_verb(before) and _may_end_before(after):
            yield _Asked(question=f"{text_from_words(before).text} {who}?", answer=phrase)


def _asked_of_numbers(sentence: Sentence) -> Iterator[_Asked]:
    for place, (number, noun) in enumerate(pairwise(sentence)):
        if number.tag == "NUM" and noun.tag == "NOUN" and noun.text.endswith("s"):
            after = _words_after(sentence, place + 1)
            yield _Asked(question=f"How many {text_from_words(after).text}?", answer=range(place, place + 1))


def _noun_phrases(sentence: Sentence) -> Iterator[range]:
    """Yield the longest runs of determiners, adjectives, numbers and nouns that end with a noun."""
    start = 0
    while start < len(sentence):
        stop = start
        while stop < len(sentence) and _is_in_phrase(sentence[stop]):
            stop += 1
        if stop > start and sentence[stop - 1].tag == "NOUN":
            yield range(start, stop)
        start = stop + 1


def _words_before(sentence: Sentence, place: int) -> Sentence:
    """Return the words before a place from the start of the clause, which is the last mark or conjunction."""
    start = place
    while start and sentence[start - 1].tag not in _BETWEEN_CLAUSES:
        start -= 1
    return sentence[start:place]


def _words_after(sentence: Sentence, place: int) -> Sentence:
    """Return the words from a place up to the next mark, not too many, without words that no question ends with."""
    stop = place
    while stop < len(sentence) and sentence[stop].tag != _MARK and stop - place < _MOST_WORDS:
        stop += 1
    while stop > place + 1 and sentence[stop - 1].tag in _NOT_LAST:
        stop -= 1
    return sentence[place:stop]


def _has_subject_and_verb(words: Sentence) -> bool:
    tags = [word.tag for word in words]
    return len(words) <= _MOST_WORDS and "VERB" in tags and not _SUBJECTS.isdisjoint(tags[: tags.index("VERB")])


def _may_end_before(words: Sentence) -> bool:
    """Return whether a phrase may end where `words` begin; "the top" may not before "of the hill"."""
    return not words or words[0].text.lower() != "of"


def _is_person(phrase: Sentence) -> bool:
    return phrase[-1].text.lower() in _PEOPLE or any(word.text in _TITLES for word in phrase)


def _is_name(phrase: Sentence) -> bool:
    return all(word.tag == "NOUN" and word.text[0].isupper() for word in phrase)


def _is_in_phrase(word: Word) -> bool:
    return word.tag in _IN_PHRASES or word.text.lower() in _POSSESSIVES


def _in_context(asked: _Asked, document: Document, place: int, rng: random.Random) -> Question | None:
    """Return the question in a random context, or None if that would be too long."""
    sentences = document.sentences
    length = rng.choice(_CONTEXT_SENTENCES)
    first = max(0, min(place - rng.randrange(length), len(sentences) - length))
    texts = [text_from_words(sentence) for sentence in sentences[first : first + length]]
    context = " ".join(text.text for text in texts)
    if len(context.split()) > _LONGEST_CONTEXT:
        return None
    offset = sum(len(text.text) + 1 for text in texts[: place - first])
    target = texts[place - first]
    return Question(
        question=asked.question,
        context=context,
        start=offset + target.starts[asked.answer.start],
        end=offset + target.ends[asked.answer.stop - 1],
    )
