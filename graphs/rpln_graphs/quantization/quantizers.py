"""Quantizers: scales and zero points by which 8-bit integers stand for floats, as ONNX's QuantizeLinear defines them.

    q = clip(round(x / scale) + zero_point)        x ~ (q - zero_point) * scale

An activation has one scale. A weight has one for each column, which is an output channel, and is symmetric: its zero
point is 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]

TINY: Final = float(np.finfo(np.float32).tiny)
"""The smallest scale: that of a value which is always zero."""
LARGEST_WEIGHT: Final = 127
"""The largest magnitude of a quantized weight. -128 is left out, so that the range is symmetric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer:
    """The scale and the zero point of an activation, and the type of its integers."""

    scale: float
    zero_point: int
    dtype: ir.DataType = ir.DataType.UINT8

    def rounded(self, array: Array) -> Array:
        """Return the floats that the quantized `array` stands for, in fp32."""
        least, most = limits_of_type(self.dtype)
        scale = np.float32(self.scale)
        integers = np.clip(np.rint(array.astype(np.float32) / scale) + self.zero_point, least, most)
        return np.asarray((integers - self.zero_point) * scale, dtype=np.float32)


Quantizers = Mapping[str, Quantizer]
"""The quantizers of a graph's activations, by the names of the values."""


def quantizer_from_range(low: float, high: float, dtype: ir.DataType = ir.DataType.UINT8) -> Quantizer:
    """Return the quantizer of values between `low` and `high`; the range is extended to hold 0, which must be exact.

    With uint8, the range may be anywhere. With int8, it is symmetric, as TensorRT wants it.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    least, most = limits_of_type(dtype)
    if dtype == ir.DataType.INT8:
        return Quantizer(scale=_scale(max(-low, high) / most), zero_point=0, dtype=dtype)
    scale = _scale((high - low) / (most - least))
    return Quantizer(scale=scale, zero_point=int(np.clip(round(least - low / scale), least, most)), dtype=dtype)


def _scale(step: float) -> float:
    """Return the number of fp32 that is next to `step`, or the smallest scale."""
    return float(np.float32(max(step, TINY)))


def limits_of_type(dtype: ir.DataType) -> tuple[int, int]:
    """Return the least and the largest integer of uint8 or int8."""
    limits = np.iinfo(dtype.numpy())
    return int(limits.min), int(limits.max)


def scales_of_weight(weight: Array) -> Array:
    """Return the scale of each column of a weight [K, N], in fp32, shape [N]."""
    largest = np.abs(weight).max(axis=0, initial=0.0)
    return np.asarray(np.maximum(largest / LARGEST_WEIGHT, TINY), dtype=np.float32)


def quantized_weight(weight: Array, scales: Array) -> Array:
    """Return the int8 weight [K, N] that these scales of its columns give."""
    return np.clip(np.rint(weight / scales), -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)


def floats_of_weight(integers: Array, scales: Array) -> Array:
    """Return the floats that the integers [K, N] of a weight stand for, in fp32.

    Its scales are [N], one for each column, or [blocks, N], one for each of the blocks that a column is cut into.
    """
    rows = np.atleast_2d(scales)
    return np.asarray(integers.astype(np.float32) * np.repeat(rows, integers.shape[0] // rows.shape[0], axis=0))
