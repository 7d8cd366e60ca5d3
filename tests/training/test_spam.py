import math
import random
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.mails import Mail
from training.naive_bayes import NaiveBayes
from training.spam import Beginning, baseline_filter_scores, beginnings_of, filter_scores, partly_cut
from training.tokenizer import train_tokenizer


class _SaysSpamOfSevens(nn.Module):
    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        spam = ((input_ids == 7) & attention_mask.bool()).any(dim=1)
        return SimpleNamespace(logits=torch.stack([~spam, spam], dim=1).float())


def _beginning(*tokens: int, spam: bool) -> Beginning:
    return Beginning(token_ids=[0, *tokens, 2], is_spam=spam)


_SCORED = [
    _beginning(7, spam=True),
    _beginning(5, 6, 7, 8, spam=True),
    _beginning(5, spam=True),
    _beginning(7, 5, spam=False),
    _beginning(6, spam=False),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["one two three"] * 3, vocabulary_size=280)


def test_scores_are_of_spam() -> None:
    scores = filter_scores(_SaysSpamOfSevens(), _SCORED)
    assert (scores.mails, scores.accuracy) == pytest.approx((5, 3 / 5))
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert baseline_filter_scores(lambda tokens: 7 in tokens, _SCORED) == scores
    assert baseline_filter_scores(lambda _: False, _SCORED).f1 == 0


def test_a_beginning_has_both_ends_and_at_most_so_many_tokens(tokenizer: Tokenizer) -> None:
    mails = [
        Mail(name="a", is_spam=True, subject="", text="one two three"),
        Mail(name="b", is_spam=False, subject="", text="one " * 50),
    ]
    short, long = beginnings_of(tokenizer, mails, length=20)
    assert short == Beginning(token_ids=tokenizer.encode("one two three").ids, is_spam=True)
    assert long.token_ids == [0, *tokenizer.encode("one " * 50, add_special_tokens=False).ids[:18], 2]


def test_half_of_the_mails_are_seen_in_part() -> None:
    whole = [_beginning(*range(10, 60), spam=bool(i % 2)) for i in range(400)]
    cut = partly_cut(whole, rng=random.Random(0))
    assert [one.is_spam for one in cut] == [one.is_spam for one in whole]
    assert 150 < sum(one == other for one, other in zip(cut, whole, strict=True)) < 250
    for one in cut:
        inside = one.token_ids[1:-1]
        assert (one.token_ids[0], one.token_ids[-1]) == (0, 2)
        assert inside == list(range(inside[0], inside[0] + len(inside)))
        assert len(inside) >= 8
    assert partly_cut([_beginning(5, spam=True)] * 20, rng=random.Random(0)) == [_beginning(5, spam=True)] * 20


def test_naive_bayes_multiplies_what_tokens_say() -> None:
    train = [_beginning(5, 5, 6, spam=True), _beginning(6, 7, spam=False), _beginning(7, spam=False)]
    bayes = NaiveBayes(train, vocabulary_size=10)
    spam = {token: (1 + count) / (5 + 10) for token, count in {0: 1, 2: 1, 5: 2, 6: 1, 7: 0}.items()}
    ham = {token: (1 + count) / (7 + 10) for token, count in {0: 2, 2: 2, 5: 0, 6: 1, 7: 2}.items()}
    for tokens in ([0, 5, 2], [0, 6, 2], [0, 7, 2], [0, 5, 7, 7, 2], [0, 5, 5, 7, 2]):
        odds = math.log(1 / 2) + sum(math.log(spam[token] / ham[token]) for token in tokens)
        assert bayes.says_spam(tokens) == (odds > 0)
    assert bayes.says_spam([0, 5, 5, 5, 2])
    assert not bayes.says_spam([0, 7, 2])
