"""Quantizers: scales and zero points by which numbers of 8 bits stand for floats, as in ONNX's QuantizeLinear.

    q = clip(round(x / scale) + zero_point)        x ~ (q - zero_point) * scale

An activation has one scale. A weight has one for each column, which is an output channel, and is symmetric: its zero
point is 0. Numbers of 8 bits are integers, or floats with three bits behind the first (fp8, float8_e4m3fn), which are
rounded to the nearest of their own.
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
"""The largest magnitude of a weight in int8. -128 is left out, so that the range is symmetric."""
LARGEST_FP8: Final = 448
"""The largest number of fp8."""
INT8: Final = ir.DataType.INT8
FP8: Final = ir.DataType.FLOAT8E4M3FN
"""The types of weights in 8 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer:
    """The scale and the zero point of an activation, and the type of its numbers of 8 bits."""

    scale: float
    zero_point: int
    dtype: ir.DataType = ir.DataType.UINT8

    def rounded(self, array: Array) -> Array:
        """Return the floats that the quantized `array` stands for, in fp32."""
        scale = np.float32(self.scale)
        least, most = limits_of_type(self.dtype)
        scaled = array.astype(np.float32) / scale
        # What is clipped lies beyond the limits once the zero point is added.
        numbers = _rounded(scaled, self.dtype, least - self.zero_point, most - self.zero_point)
        return np.asarray(numbers * scale, dtype=np.float32)

    @property
    def weight_dtype(self) -> ir.DataType:
        """The type of weights that are multiplied with such an activation."""
        return FP8 if self.dtype == FP8 else INT8


Quantizers = Mapping[str, Quantizer]
"""The quantizers of a graph's activations, by the names of the values."""
ChannelValues = Mapping[str, Array]
"""A number for each channel [C] of a graph's activations, by the names of the values."""


def quantizer_from_range(low: float, high: float, dtype: ir.DataType = ir.DataType.UINT8) -> Quantizer:
    """Return the quantizer of values between `low` and `high`; the range is extended to hold 0, which must be exact.

    With uint8, the range may be anywhere. With int8 and fp8, it is symmetric, as TensorRT wants it.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    least, most = limits_of_type(dtype)
    if dtype in {INT8, FP8}:
        return Quantizer(scale=_scale(max(-low, high) / most), zero_point=0, dtype=dtype)
    scale = _scale((high - low) / (most - least))
    return Quantizer(scale=scale, zero_point=int(np.clip(round(least - low / scale), least, most)), dtype=dtype)


def _scale(step: float) -> float:
    """Return the number of fp32 that is next to `step`, or the smallest scale."""
    return float(np.float32(max(step, TINY)))


def limits_of_type(dtype: ir.DataType) -> tuple[int, int]:
    """Return the least and the largest number of uint8, int8 or fp8."""
    if dtype == FP8:
        return -LARGEST_FP8, LARGEST_FP8
    limits = np.iinfo(dtype.numpy())
    return int(limits.min), int(limits.max)


def scales_of_weight(weight: Array, dtype: ir.DataType = INT8) -> Array:
    """Return the scale of each column of a weight [K, N], in fp32, shape [N], for int8 or fp8."""
    largest = np.abs(weight).max(axis=0, initial=0.0)
    return np.asarray(np.maximum(largest / _largest_weight(dtype), TINY), dtype=np.float32)


def quantized_weight(weight: Array, scales: Array, dtype: ir.DataType = INT8) -> Array:
    """Return the weight [K, N] in int8 or fp8 that these scales of its columns give."""
    largest = _largest_weight(dtype)
    return _rounded(weight / scales, dtype, -largest, largest).astype(dtype.numpy())


def _largest_weight(dtype: ir.DataType) -> int:
    return LARGEST_FP8 if dtype == FP8 else LARGEST_WEIGHT


def _rounded(scaled: Array, dtype: ir.DataType, least: int, most: int) -> Array:
    """Return the numbers of `dtype` that are nearest to `scaled` and not beyond the limits, in fp32."""
    if dtype == FP8:
        return np.clip(scaled, least, most).astype(FP8.numpy()).astype(np.float32)
    return np.clip(np.rint(scaled), least, most)


def floats_of_weight(integers: Array, scales: Array) -> Array:
    """Return the floats that the integers [K, N] of a weight stand for, in fp32.

    Its scales are [N], one for each column, or [blocks, N], one for each of the blocks that a column is cut into.
    """
    rows = np.atleast_2d(scales)
    return np.asarray(integers.astype(np.float32) * np.repeat(rows, integers.shape[0] // rows.shape[0], axis=0))
