import random

import pytest

from training.brown import Document, Sentence, Word
from training.questions import questions_of


def _sentence(tagged: str) -> Sentence:
    return tuple(Word(*pair.rsplit("/", 1)) for pair in tagged.split())


_BOAT = (
    "The/DET old/ADJ man/NOUN walked/VERB to/ADP the/DET boat/NOUN ,/. and/CONJ his/PRON crew/NOUN watched/VERB "
    "the/DET stars/NOUN ./."
)


def _asked(tagged: str) -> set[tuple[str, str]]:
    """Return all questions about a sentence, with their answers."""
    document = Document(name="ca01", genre="news", paragraphs=((_sentence(tagged),),))
    found = [question for seed in range(60) for question in questions_of([document], rng=random.Random(seed))]
    return {(question.question, question.answer) for question in found}


@pytest.mark.parametrize(
    ("tagged", "asked"),
    [
        (
            _BOAT,
            {
                ("Who walked to the boat?", "The old man"),
                ("The old man walked to what?", "the boat"),
                ("Who watched the stars?", "his crew"),
                ("his crew watched what?", "the stars"),
            },
        ),
        ("Seven/NUM ships/NOUN left/VERB ./.", {("What left?", "Seven ships"), ("How many ships left?", "Seven")}),
        ("Mr./NOUN Fisk/NOUN came/VERB ./.", {("Who came?", "Mr. Fisk")}),
        ("Paris/NOUN fell/VERB ./.", {("Who fell?", "Paris")}),
        ("They/PRON met/VERB Mrs./NOUN Fisk/NOUN ./.", {("They met who?", "Mrs. Fisk")}),
        ("It/PRON is/VERB the/DET top/NOUN of/ADP it/PRON ./.", set()),
        ("Sing/VERB a/DET song/NOUN ./.", set()),
        ("Why/ADV ?/.", set()),
        (
            "The/DET rain/NOUN fell/VERB on/ADP us/PRON and/CONJ on/ADP them/PRON and/CONJ on/ADP the/DET six/NUM ./.",
            {("What fell on us and on them?", "The rain")},
        ),
    ],
    ids=["boat", "number", "title", "name", "whom", "of", "no subject", "no phrase", "end of a question"],
)
def test_phrases_are_asked_for_in_the_words_beside_them(tagged: str, asked: set[tuple[str, str]]) -> None:
    assert _asked(tagged) == asked


def test_the_answer_is_where_the_question_says_in_a_context_of_sentences_in_a_row() -> None:
    fillers = [_sentence(f"{word}/ADV again/ADV ./.") for word in ("Here", "There", "Now", "Then", "Often", "Never")]
    sentences = (*fillers[:3], _sentence(_BOAT), *fillers[3:])
    document = Document(name="ca01", genre="news", paragraphs=(sentences,))
    contexts = set()
    for seed in range(50):
        (question,) = questions_of([document], rng=random.Random(seed))
        assert question.context[question.start : question.end] == question.answer
        assert question.answer in {"The old man", "the boat", "his crew", "the stars"}
        contexts.add(question.context)
    assert len(contexts) > 5
    assert {2, 3, 4} == {context.count(".") for context in contexts}
    whole = "Here again. There again. Now again. The old man walked to the boat, and his crew watched the stars. "
    assert all(context in whole + "Then again. Often again. Never again." for context in contexts)


def test_contexts_that_are_too_long_are_left_out() -> None:
    long = _sentence(" ".join(["again/ADV"] * 200))
    document = Document(name="ca01", genre="news", paragraphs=((long, _sentence(_BOAT), long),))
    assert questions_of([document], rng=random.Random(0)) == []
