"""The metrics on a few answers, with values that were computed by hand."""

import numpy as np
import pytest

from rpln_export.evaluation.metrics import (
    accuracy,
    answer_f1,
    entity_scores,
    exact_match,
    f1_of_labels,
    macro_f1,
    perplexity,
    spearman,
)
from rpln_runtime.errors import InputError


def test_labels() -> None:
    right, found = [0, 0, 1, 2], [0, 1, 1, 1]
    assert accuracy(right, found) == 0.5
    assert macro_f1(right, found) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_several_labels() -> None:
    right, found = np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 0], [0, 1], [1, 0]])
    assert f1_of_labels(right, found, "macro") == pytest.approx((1 / 2 + 1) / 2)
    assert f1_of_labels(right, found, "micro") == pytest.approx(2 * 2 / (3 + 3))


def test_an_entity_is_right_only_as_a_whole() -> None:
    right = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC", "B-LOC"]]
    found = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "B-LOC", "B-LOC"]]
    scores = entity_scores(right, found)
    assert scores == pytest.approx({"entity_f1": 6 / 9, "entity_precision": 3 / 5, "entity_recall": 3 / 4})
    nothing = entity_scores([["O", "O"]], [["O", "O"]])
    assert nothing == {"entity_f1": 0, "entity_precision": 0, "entity_recall": 0}


def test_ranks() -> None:
    assert spearman([1, 2, 3, 4], [10.0, 20, 40, 30]) == pytest.approx(0.8)
    assert spearman([1, 2, 3], [5.0, 5.0, 5.0]) == 0
    with pytest.raises(InputError, match="'score' are all equal"):
        spearman([1, 1], [1.0, 2.0])


def test_perplexity_is_the_mean_over_tokens() -> None:
    assert perplexity([np.log(2), 3 * np.log(2)], 4) == pytest.approx(2)


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The  Dog!", ["dog"], 1, 1),
        ("a dog and the cat", ["dog"], 0, 2 / 4),
        ("the U.S. army", ["US Army", "army"], 1, 1),
        ("dog dog cat", ["dog dog dog"], 0, 4 / 6),
        ("cat", ["dog", "bird"], 0, 0),
        ("", [], 1, 1),
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", [""], 1, 1),
        ("an apple-pie", ["applepie"], 1, 1),
        ("theatre", ["atre"], 0, 0),
    ],
)
def test_answers_by_the_rules_of_squad(answer: str, right: list[str], exact: float, f1: float) -> None:
    assert exact_match(answer, right) == exact
    assert answer_f1(answer, right) == pytest.approx(f1)


def test_answers_as_in_transformers() -> None:
    squad = pytest.importorskip(
        "transformers.data.metrics.squad_metrics", reason="transformers 5 has it no more; 4.57 has"
    )
    texts = ["", "the", "The dog.", "a dog's life", "dogs life", "An U.S. dog", "us dog", "über-dog dog", "x, y; x"]
    for one in texts:
        for other in texts:
            assert exact_match(one, [other]) == squad.compute_exact(other, one)
            assert answer_f1(one, [other]) == pytest.approx(squad.compute_f1(other, one))
