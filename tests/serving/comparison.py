"""Comparison of JSON with answers of the runtime."""

from typing import Any

import numpy as np
import pytest

TOLERANCE = 1e-5
"""How far numbers may differ: both run the same graph in fp32, but in other batches."""


def same(found: Any, expected: Any) -> None:
    """Compare JSON with an answer of the runtime: numbers within the tolerance, all else exactly."""
    if isinstance(expected, np.ndarray):
        expected = expected.tolist()
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=TOLERANCE)
    else:
        assert found == expected
