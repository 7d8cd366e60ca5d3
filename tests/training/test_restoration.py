import pytest

from training.brown import Document, Word
from training.restoration import bare_text, written_sentences
from training.restoration_scores import F1, WordByWord, WrittenWord, restoration_scores, written_words


@pytest.mark.parametrize(
    ("written", "bare"),
    [
        ("Mr. Fisk asked if the U.S. could wait.", "mr fisk asked if the us could wait"),
        ("No; he paid $1,000.50 at 5:30, didn't he?", "no he paid $1,000.50 at 5:30 didn't he"),
        ("In 1961, two-day trips -- to Rome!", "in 1961 two-day trips to rome"),
        ("See p.33, Nos. 4.5-5.", "see p33 nos 4.5-5"),
        ("...", ""),
    ],
)
def test_capitals_and_marks_are_lost(written: str, bare: str) -> None:
    assert bare_text(written) == bare


def _sentence(text: str) -> tuple[Word, ...]:
    return tuple(Word(word, "X") for word in text.split())


def test_written_sentences_have_no_quotation_marks_and_no_brackets() -> None:
    paragraphs = (tuple(map(_sentence, ["`` Yes , '' he said .", "See ( 3 ) .", "He 's ` in ' .", "."])),)
    assert written_sentences([Document(name="ca01", genre="news", paragraphs=paragraphs)]) == [
        "Yes, he said.",
        "He 's in.",
    ]


def test_words_are_taken_apart() -> None:
    assert written_words("-- Mr. Fisk -- of the U.S. -- won; 3.5 times?!") == [
        WrittenWord("mr", "Mr", "."),
        WrittenWord("fisk", "Fisk", "--"),
        WrittenWord("of", "of", ""),
        WrittenWord("the", "the", ""),
        WrittenWord("us", "U.S", ".--"),
        WrittenWord("won", "won", ";"),
        WrittenWord("3.5", "3.5", ""),
        WrittenWord("times", "times", "?!"),
    ]


def test_what_was_restored_is_counted() -> None:
    scores = restoration_scores(["Mr. Fisk, you said Rome.", "Wait!"], ["Mr. fisk You said, Rome.", "Wait."])
    assert (scores.words, scores.kept, scores.exact, scores.added) == (6, 6, 2, 0)
    assert scores.findings["capitals"] == F1(wanted=4, found=4, correct=3)
    assert scores.findings["marks"] == F1(wanted=4, found=4, correct=2)
    assert scores.both == F1(wanted=8, found=8, correct=5)
    assert scores.both.f1 == pytest.approx(5 / 8)


def test_what_is_at_a_lost_or_changed_word_is_not_found() -> None:
    scores = restoration_scores(["In Rome, Mr. Fisk waits."], ["In Rune, Fisk Fisk waits."])
    assert (scores.words, scores.kept, scores.exact, scores.added) == (5, 3, 3, 2)
    assert scores.findings["capitals"] == F1(wanted=4, found=4, correct=2)
    assert scores.findings["marks"] == F1(wanted=3, found=2, correct=1)


def test_kinds_of_marks_are_counted_by_themselves() -> None:
    scores = restoration_scores(["So, Fisk, did he go?", "Who?"], ["So Fisk, did, he go.", "Who?!"])
    assert scores.findings["commas"] == F1(wanted=2, found=2, correct=1)
    assert scores.findings["question marks"] == F1(wanted=2, found=1, correct=1)


def test_f1_is_the_harmonic_mean() -> None:
    assert F1(wanted=4, found=2, correct=1).f1 == pytest.approx(2 * (1 / 2) * (1 / 4) / (1 / 2 + 1 / 4))
    assert F1(wanted=0, found=0, correct=0).f1 == 0


def test_the_baseline_writes_words_as_they_are_written_most_often() -> None:
    texts = ["So Mr. Fisk met May in Rome.", "I say Mr. May may go, he may not.", "Rome may may fall."]
    baseline = WordByWord(texts)
    assert baseline.restore("may mr fisk see rome") == "May Mr. Fisk see rome."  # Rome was never inside a text
    assert baseline.restore("they may go") == "They may go."
