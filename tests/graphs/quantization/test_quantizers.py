"""Quantizers: 0 is exact, no value in the range is off by more than half a step, integers stay within their type."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from rpln_graphs.quantization.quantizers import (
    FP8,
    TINY,
    Quantizer,
    floats_of_weight,
    limits_of_type,
    quantized_weight,
    quantizer_from_range,
    scales_of_weight,
)

TYPES = [ir.DataType.UINT8, ir.DataType.INT8]
NUMBERS = st.floats(-(2.0**99), 2.0**99, width=32, allow_nan=False, allow_subnormal=False)
EVERY_TYPE = pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.name)


@EVERY_TYPE
@given(one=NUMBERS, other=NUMBERS, share=st.floats(0, 1))
def test_a_value_in_the_range_is_off_by_half_a_step_at_most(
    dtype: ir.DataType, one: float, other: float, share: float
) -> None:
    low, high = sorted((one, other))
    quantizer = quantizer_from_range(low, high, dtype)
    least, most = limits_of_type(dtype)
    values = np.array([0.0, low, high, low + share * (high - low)], dtype=np.float32)
    rounded = quantizer.rounded(values)

    assert rounded[0] == 0
    assert least <= quantizer.zero_point <= most
    assert quantizer.scale >= TINY
    assert quantizer.scale == np.float32(quantizer.scale)  # the graph stores it in fp32
    # Beside half a step, the largest of 255 steps may be off by what fp32 rounds.
    assert np.abs(rounded[1:] - values[1:]).max() <= 0.5001 * quantizer.scale


@EVERY_TYPE
def test_values_beyond_the_range_become_its_ends(dtype: ir.DataType) -> None:
    quantizer = quantizer_from_range(-2.0, 1.0, dtype)
    found = quantizer.rounded(np.array([-1e9, 1e9]))
    least, most = limits_of_type(dtype)

    expected = [(end - quantizer.zero_point) * np.float32(quantizer.scale) for end in (least, most)]
    assert_array_equal(found, np.array(expected, dtype=np.float32))


def test_the_range_is_extended_to_hold_0() -> None:
    assert quantizer_from_range(5.1, 10.2) == quantizer_from_range(0.0, 10.2)
    assert quantizer_from_range(5.1, 10.2).zero_point == 0
    assert quantizer_from_range(-10.2, -5.1).zero_point == 255
    assert quantizer_from_range(-1.0, 1.0, ir.DataType.INT8).zero_point == 0


@EVERY_TYPE
def test_a_value_that_is_always_zero_has_the_smallest_scale(dtype: ir.DataType) -> None:
    quantizer = quantizer_from_range(0.0, 0.0, dtype)

    assert (quantizer.scale, quantizer.zero_point) == (TINY, 0)
    assert_array_equal(quantizer.rounded(np.zeros(3)), np.zeros(3))


@given(values=st.lists(NUMBERS, min_size=1, max_size=20))
def test_fp8_rounds_as_torch_does(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    quantizer = quantizer_from_range(float(array.min()), float(array.max()), FP8)
    scale = np.float32(quantizer.scale)
    expected = torch.from_numpy(np.clip(array / scale, -448, 448)).to(torch.float8_e4m3fn).float().numpy() * scale

    assert quantizer.zero_point == 0
    assert_array_equal(quantizer.rounded(array), expected)
    beyond = np.array([-1e3, 1e3], dtype=np.float32) * scale
    assert_array_equal(quantizer.rounded(beyond), np.array([-448, 448], dtype=np.float32) * scale)


def test_halves_are_rounded_to_even_numbers_as_onnx_does() -> None:
    quantizer = Quantizer(scale=2.0, zero_point=10)

    assert_array_equal(quantizer.rounded(np.array([1.0, 3.0, -1.0, -3.0])), [0, 4, 0, -4])


@given(columns=st.integers(1, 5), rows=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_each_column_of_a_weight_reaches_127_and_is_off_by_half_a_step_at_most(
    columns: int, rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-6, 6, columns)).astype(np.float32)
    scales = scales_of_weight(weight)
    integers = quantized_weight(weight, scales)

    assert [integers.dtype, scales.dtype] == [np.dtype("int8"), np.dtype("float32")]
    assert scales.shape == (columns,)
    assert_array_equal(np.abs(integers.astype(int)).max(axis=0), np.full(columns, 127))
    assert (np.abs(floats_of_weight(integers, scales) - weight) <= 0.5001 * scales).all()


def test_a_column_of_zeros_stays_zeros() -> None:
    weight = np.array([[0.0, 1.0], [0.0, -2.0]], dtype=np.float32)
    scales = scales_of_weight(weight)

    assert scales[0] == np.float32(TINY)
    assert_array_equal(quantized_weight(weight, scales), [[0, 64], [0, -127]])


def test_a_weight_in_fp8_reaches_448_and_rounds_as_torch_does() -> None:
    weight = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    scales = scales_of_weight(weight, FP8)
    numbers = quantized_weight(weight, scales, FP8)

    assert numbers.dtype == FP8.numpy()
    assert_array_equal(np.abs(numbers.astype(np.float32)).max(axis=0), np.full(5, 448))
    expected = torch.from_numpy(weight / scales).to(torch.float8_e4m3fn).float().numpy()
    assert_array_equal(numbers.astype(np.float32), expected)


def test_scales_of_blocks_belong_to_their_rows() -> None:
    integers = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=np.int8)
    scales = np.array([[1, 10], [100, 1000]], dtype=np.float32)

    assert_array_equal(floats_of_weight(integers, scales), [[1, 20], [3, 40], [500, 6000], [700, 8000]])
    assert_array_equal(floats_of_weight(integers, scales[0]), [[1, 20], [3, 40], [5, 60], [7, 80]])
