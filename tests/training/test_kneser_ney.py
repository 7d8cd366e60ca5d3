import itertools

import pytest

from training.kneser_ney import KneserNey

_A, _B, _C, _D = range(4)
_STREAMS = [[_A, _B, _A, _C, _A, _B], [_A, _B, _B]]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_probabilities_of_all_tokens_sum_to_one(order: int) -> None:
    model = KneserNey(_STREAMS, order=order, vocabulary_size=4)
    for context in itertools.product(range(4), repeat=order - 1):
        assert sum(model.probability(token, context) for token in range(4)) == pytest.approx(1)


def test_a_bigram_is_worth_what_the_formula_says() -> None:
    """The counts of bigrams are ab 3, ba 1, ac 1, ca 1, bb 1. Four occur once and none twice, so D2 = 4 / 4 = 1.

    The words that come before: two before a (b, c), two before b (a, b), one before c (a). So D1 = 1 / (1 + 2 * 2) =
    1/5, of 5 bigrams.
    """
    model = KneserNey(_STREAMS, order=2, vocabulary_size=4)
    uniform = 1 / 4
    continuation_b = (2 - 1 / 5) / 5 + (1 / 5 * 3) / 5 * uniform
    continuation_d = (1 / 5 * 3) / 5 * uniform
    assert model.probability(_B, [_A]) == pytest.approx((3 - 1) / 4 + 1 * 2 / 4 * continuation_b)
    assert model.probability(_D, [_A]) == pytest.approx(1 * 2 / 4 * continuation_d)
    assert model.probability(_B, [_D]) == pytest.approx(continuation_b)


def test_a_word_in_one_context_only_is_rarer_in_new_ones() -> None:
    """This is the idea of Kneser and Ney: Francisco is frequent, but only after San."""
    san, francisco, glasses, a, b, c = range(6)
    stream = [*[san, francisco] * 6, a, glasses, b, glasses, c, glasses, a, b, c, b]
    model = KneserNey([stream], order=2, vocabulary_size=6)
    assert model.probability(glasses, [b]) > model.probability(francisco, [b])
    assert model.probability(francisco, [san]) > 0.7


def test_only_the_last_tokens_of_a_context_count() -> None:
    model = KneserNey(_STREAMS, order=2, vocabulary_size=4)
    assert model.probability(_B, [_C, _D, _A]) == model.probability(_B, [_A])
