import pytest

from training.tags import TAGS, universal_from_brown


@pytest.mark.parametrize(
    ("brown_tag", "word", "tag"),
    [
        ("nn", "time", "NOUN"),
        ("NP-TL", "York", "NOUN"),
        ("nn$", "man's", "NOUN"),
        ("nns-tl-hl", "Nations", "NOUN"),
        ("vbd", "said", "VERB"),
        ("dod*", "didn't", "VERB"),
        ("md+hv", "should've", "VERB"),
        ("pps+bez", "he's", "PRON"),
        ("ppss+ber-n", "You're", "PRON"),
        ("pp$$", "mine", "PRON"),
        ("wp$", "whose", "PRON"),
        ("at", "the", "DET"),
        ("in", "of", "ADP"),
        ("jjt", "best", "ADJ"),
        ("ap$", "other's", "ADJ"),
        ("od", "third", "ADJ"),
        ("rb$", "else's", "ADV"),
        ("cs", "because", "CONJ"),
        ("cc-tl", "&", "CONJ"),
        ("*", "not", "PRT"),
        ("to-hl", "to", "PRT"),
        ("cd$", "1960's", "NUM"),
        ("fw-in+at-t", "Des", "X"),
        ("uh", "Oh", "X"),
        ("---hl", "--", "."),
        ("''", "''", "."),
        (",", "[", "."),
    ],
)
def test_a_brown_tag_has_one_universal_tag(brown_tag: str, word: str, tag: str) -> None:
    assert universal_from_brown(brown_tag, word) == tag


@pytest.mark.parametrize(("brown_tag", "word"), [("in", "-"), ("np", ":"), ("fw-rb-tl", ",")])
def test_a_mark_is_punctuation_whatever_brown_calls_it(brown_tag: str, word: str) -> None:
    assert universal_from_brown(brown_tag, word) == "."


@pytest.mark.parametrize("brown_tag", ["nil", "", "noun", "nn$x"])
def test_a_tag_that_is_not_browns_is_refused(brown_tag: str) -> None:
    with pytest.raises(ValueError, match=r"training\.tags"):
        universal_from_brown(brown_tag, "word")


def test_there_are_twelve_tags() -> None:
    assert len(TAGS) == len(set(TAGS)) == 12
