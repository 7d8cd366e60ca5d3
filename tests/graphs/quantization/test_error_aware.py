"""Error-aware rounding: products of correlated inputs are nearer than with each value rounded for itself."""

import numpy as np
import pytest

from rpln_graphs.quantization.blocks import identity_of_weight, limits_of_bits, quantized_blocks
from rpln_graphs.quantization.error_aware import DAMPING, compensation, error_aware_blocks
from rpln_graphs.quantization.quantizers import floats_of_weight

ROWS, COLUMNS, SIZE = 96, 24, 32
RNG = np.random.default_rng(11)
WEIGHT = RNG.standard_normal((ROWS, COLUMNS)).astype(np.float32)
INPUTS = (RNG.standard_normal((400, 12)) @ RNG.standard_normal((12, ROWS)) + RNG.standard_normal((400, ROWS))).astype(
    np.float32
)
"""Rows of inputs with twelve causes in common, and some noise."""
MOMENTS = INPUTS.T @ INPUTS


def one_by_one(weight: np.ndarray, moments: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Return the integers that optimal brain surgery gives, one row after another, with an inverse for each step.

    A row k that is rounded changes the rows that are left by (H^-1)[left, k] / (H^-1)[k, k] of its error, where H^-1 is
    the inverse of H without the rows before (B. Hassibi, D. G. Stork, G. J. Wolff, Optimal Brain Surgeon, 1993).
    """
    left, damped = weight.astype(np.float64), moments.astype(np.float64)
    damped += np.eye(len(damped)) * DAMPING * np.diag(damped).mean()
    integers = np.empty(weight.shape)
    for row in range(len(weight)):
        scale = scales[row // SIZE]
        integers[row] = np.clip(np.rint(left[row] / scale), *limits_of_bits(bits))
        inverse = np.linalg.inv(damped[row:, row:])
        left[row:] -= np.outer(inverse[:, 0] / inverse[0, 0], left[row] - integers[row] * scale)
    return integers


@pytest.mark.parametrize("bits", [4, 8])
def test_each_row_makes_up_for_those_before_as_in_optimal_brain_surgery(bits: int) -> None:
    integers, scales = error_aware_blocks(WEIGHT, compensation(MOMENTS), bits=bits, size=SIZE)

    assert integers.dtype == np.int8
    assert (integers.shape, scales.shape) == (WEIGHT.shape, (ROWS // SIZE, COLUMNS))
    # A value in the middle between two integers may fall to either side, and those behind it follow.
    assert np.mean(integers != one_by_one(WEIGHT, MOMENTS, scales, bits)) < 0.02


def test_products_are_nearer_than_with_the_nearest_integers() -> None:
    errors = [
        np.square(INPUTS @ (floats_of_weight(*blocks) - WEIGHT)).mean()
        for blocks in (
            error_aware_blocks(WEIGHT, compensation(MOMENTS), bits=4, size=SIZE),
            quantized_blocks(WEIGHT, bits=4, size=SIZE),
        )
    ]

    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("moments", [np.zeros((ROWS, ROWS)), np.eye(ROWS)], ids=["no inputs", "uncorrelated"])
def test_inputs_without_correlation_leave_the_nearest_integers(moments: np.ndarray) -> None:
    found = error_aware_blocks(WEIGHT, compensation(moments), bits=4, size=SIZE)

    for one, other in zip(found, quantized_blocks(WEIGHT, bits=4, size=SIZE), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_input_that_is_always_zero_breaks_nothing() -> None:
    silent = INPUTS.copy()
    silent[:, ::3] = 0
    integers, scales = error_aware_blocks(WEIGHT, compensation(silent.T @ silent), bits=4, size=SIZE)

    assert np.isfinite(scales).all()
    assert np.abs(floats_of_weight(integers, scales) - WEIGHT)[::3].max() < 1  # and such rows stay near theirs


def test_weights_are_told_apart_by_what_they_hold() -> None:
    other = WEIGHT.copy()
    other[5, 5] += 1e-6

    assert identity_of_weight(np.asfortranarray(WEIGHT)) == identity_of_weight(WEIGHT) != identity_of_weight(other)
