"""Argmaxes are counted only where the type can tell the candidates apart."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rpln_export.validation.comparison import Reference, compare
from rpln_graphs.recipes import RECIPES
from rpln_graphs.stress import Case
from rpln_graphs.tolerances import RangeTolerance
from rpln_runtime.tasks import TASKS, Tensor

RANGE = 8.0
TOLERANCE = RangeTolerance(difference=1.0, argmax_agreement=0.995, resolution=2.0**-10)
TIE = TOLERANCE.resolution * RANGE


def counted(task: str, expected: list[Any], found: list[Any], mask: list[Any]) -> tuple[int, int, int]:
    """Return (decisions, agreeing, ties) of the task's first output."""
    tensor: Tensor = TASKS[task].outputs[0]
    case = Case(name="case", feeds={}, mask=np.array(mask))
    outputs: Mapping[str, NDArray[Any]] = {tensor.name: np.array(found, dtype=np.float32)}
    (row,) = compare(
        [Reference(values={tensor.name: np.array(expected, dtype=np.float32)}, compute_exact=dict)],
        {"method": lambda: lambda feeds: outputs},
        {tensor.name: tensor},
        [case],
        TOLERANCE,
        advance=lambda: None,
    )
    return row.decisions, row.agreeing, row.ties


def test_a_flip_between_candidates_within_the_resolution_is_a_tie() -> None:
    expected = [[[RANGE, 0.0], [1.0, 1.0 + TIE / 2]]]
    flipped = [[[RANGE, 0.0], [1.0 + TIE / 2, 1.0]]]
    assert counted("token-classification", expected, flipped, [[1, 1]]) == (1, 1, 1)


def test_a_flip_between_candidates_beyond_the_resolution_counts() -> None:
    expected = [[[RANGE, 0.0], [1.0, 1.0 + 2 * TIE]]]
    flipped = [[[RANGE, 0.0], [1.0 + 2 * TIE, 1.0]]]
    assert counted("token-classification", expected, flipped, [[1, 1]]) == (2, 1, 0)


def test_padding_is_neither_decision_nor_tie() -> None:
    assert counted("token-classification", [[[RANGE, 0], [1, 1]]], [[[RANGE, 0], [1, 1]]], [[1, 0]]) == (1, 1, 0)


def test_spans_are_decided_among_real_tokens() -> None:
    expected = [[RANGE, 1.0, 5.0], [RANGE, RANGE, 5.0]]
    found = [[0.0, 1.0, 5.0], [RANGE, RANGE, 5.0]]
    assert counted("question-answering", expected, found, [[0, 1, 1], [1, 0, 1]]) == (2, 2, 0)


def test_a_single_candidate_is_always_agreed_on() -> None:
    assert counted("text-classification", [[RANGE], [-1.0]], [[3.0], [4.0]], [[1], [1]]) == (2, 2, 0)


@pytest.mark.parametrize(("recipe", "bits"), [("fp16", 10), ("bf16", 7)])
def test_the_resolution_is_that_of_the_type(recipe: str, bits: int) -> None:
    assert RECIPES[recipe].tolerance == RangeTolerance(difference=2e-2, argmax_agreement=0.995, resolution=2.0**-bits)


def test_fp32_has_no_ties() -> None:
    assert RECIPES["fp32"].tolerance.resolution == 0.0
