import math

import pytest

from training.word_weights import TfIdf, words_of

_TEXTS = ["The dog barked.", "The dog, the cat and the bird.", "The bird's song."]


def test_words_are_small_and_without_marks() -> None:
    assert words_of("“The dog's bark” -- 1,000 of THEM...") == ["the", "dog's", "bark", "1", "000", "of", "them"]


def test_a_word_weighs_more_the_fewer_texts_have_it() -> None:
    weights = TfIdf(_TEXTS)
    assert weights.weight("the") == pytest.approx(math.log(4 / 4) + 1)
    assert weights.weight("dog") == pytest.approx(math.log(4 / 3) + 1)
    assert weights.weight("whale") == pytest.approx(math.log(4 / 1) + 1)


def test_likeness_is_the_cosine() -> None:
    weights = TfIdf(_TEXTS)
    the, dog, cat = (weights.weight(word) for word in ("the", "dog", "cat"))
    twice = 1 + math.log(2)
    expected = the * the * twice / (math.hypot(the, dog) * math.hypot(twice * the, cat))
    assert weights.likeness("The dog!", "the cat the") == pytest.approx(expected)
    assert weights.likeness("The dog", "the DOG.") == pytest.approx(1)
    assert weights.likeness("The dog", "...") == weights.likeness("dog", "cat") == 0
