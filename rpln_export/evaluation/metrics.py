"""The metrics, from right answers and found ones: by scikit-learn, seqeval and scipy, and by the rules of SQuAD."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rpln_runtime.errors import InputError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(right: Sequence[int] | np.ndarray, found: Sequence[int] | np.ndarray) -> float:
    """Return the share of equal answers."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(right, found))


def macro_f1(right: Sequence[int], found: Sequence[int]) -> float:
    """Return the unweighted mean of F1 over all labels that occur among the right or the found ones."""
    from sklearn.metrics import f1_score

    return float(f1_score(right, found, average="macro", zero_division=0))


def f1_of_labels(right: np.ndarray, found: np.ndarray, average: str) -> float:
    """Return F1 where a text may have several labels; both arrays are (texts, labels).

    The `average` "macro" is the mean over labels, and "micro" counts all decisions together.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(right, found, average=average, zero_division=0))


def entity_scores(right: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return F1, precision and recall of entities, each of which counts if its words and its label are right.

    Both are labels of words, text by text. Entities are read off them as the script of CoNLL-2000 does.
    """
    from seqeval.metrics import f1_score, precision_score, recall_score

    rows = [list(labels) for labels in right], [list(labels) for labels in found]
    metrics = {"entity_f1": f1_score, "entity_precision": precision_score, "entity_recall": recall_score}
    return {name: float(metric(*rows, zero_division=0)) for name, metric in metrics.items()}


def spearman(right: Sequence[float], found: Sequence[float]) -> float:
    """Return Spearman's correlation of ranks; 0 where all found values are equal.

    Raises InputError where all right values are equal, so that there is nothing to rank.
    """
    from scipy.stats import spearmanr

    if len(set(right)) < 2:
        raise InputError("the values of 'score' are all equal, expected at least two different ones to rank.")
    return float(spearmanr(right, found).statistic) if len(set(found)) > 1 else 0.0


def perplexity(nats: Sequence[float], tokens: int) -> float:
    """Return the geometric mean of 1 / P over `tokens` tokens, whose -ln P add up to the sum of `nats`."""
    return float(np.exp(np.sum(nats) / tokens))


def exact_match(answer: str, right: Sequence[str]) -> float:
    """Return 1 if `answer` is one of the `right` ones by the rules of SQuAD, else 0. No right ones: there is none."""
    return float(max(_normalized(answer) == _normalized(one) for one in right or [""]))


def answer_f1(answer: str, right: Sequence[str]) -> float:
    """Return the F1 of the words of `answer`, by the rules of SQuAD, to the best of the `right` ones."""
    return max(_f1(_normalized(answer).split(), _normalized(one).split()) for one in right or [""])


def _f1(found: Sequence[str], right: Sequence[str]) -> float:
    if not found or not right:
        return float(found == right)  # no answer is right only where there is none
    common = sum((Counter(found) & Counter(right)).values())
    return 2 * common / (len(found) + len(right))


def _normalized(answer: str) -> str:
    """Return an answer as SQuAD compares it: in lower case, without punctuation, articles and double spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())
