"""Ranges: how far the values of a graph reach, and by which power of two they must shrink to fit into fp16."""

import math
from collections.abc import Mapping
from typing import Final

import onnx_ir as ir

Ranges = Mapping[str, float]
"""The largest magnitude of each float value and initializer of a graph, by name, measured on calibration data."""

FLOAT16_MAX: Final = 65504.0
HEADROOM: Final = 8.0
"""The factor by which values may exceed the measured range before they overflow: user data differ from calibration."""
SAFE_RANGE: Final = {
    ir.DataType.FLOAT16: FLOAT16_MAX / HEADROOM,
    ir.DataType.BFLOAT16: 3.3895e38 / HEADROOM,
}
"""The largest measured magnitude that is computed in each lower type."""


def shift_for_range(peak: float) -> int:
    """Return the smallest k >= 0 for which peak * 2^-k is in the safe range of fp16."""
    return max(0, math.ceil(math.log2(max(peak, 1.0) / SAFE_RANGE[ir.DataType.FLOAT16])))
