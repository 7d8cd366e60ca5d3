"""The mail filter's baseline: multinomial naive Bayes over the same tokens, with one added to every count."""

import math
from collections.abc import Sequence

import torch

from training.spam import Beginning


class NaiveBayes:
    """The probability of spam given a mail's tokens, as if each token depended on nothing but spam or ham."""

    def __init__(self, beginnings: Sequence[Beginning], *, vocabulary_size: int) -> None:
        counts = torch.ones(2, vocabulary_size, dtype=torch.float64)
        for one in beginnings:
            row = torch.tensor(one.token_ids)
            counts[int(one.is_spam)].index_put_((row,), torch.tensor(1.0, dtype=torch.float64), accumulate=True)
        spam = sum(one.is_spam for one in beginnings)
        self._log_odds = math.log(spam / (len(beginnings) - spam))
        log_shares = (counts / counts.sum(dim=1, keepdim=True)).log()
        self._log_odds_of_token = log_shares[1] - log_shares[0]

    def says_spam(self, token_ids: Sequence[int]) -> bool:
        """Return whether spam is likelier than ham."""
        return self._log_odds + float(self._log_odds_of_token[list(token_ids)].sum()) > 0
