"""Weights in blocks: each run of values in a column shares a scale, so that 4 or 8 bits suffice for a value.

A weight [K, N] has K / size blocks in each of its N columns, and scales [K / size, N].
"""

from typing import Final

import numpy as np

from rpln_graphs.quantization.quantizers import TINY, Array

SMALLEST: Final = 16
"""The fewest values of a block that ONNX Runtime's kernels take."""
SHARES: Final = tuple(np.linspace(1.0, 0.7, 13))
"""The parts of a block's largest magnitude that its scale is tried for: clipping a little may cost less than coarse
steps do."""


def block_size(rows: int, most: int) -> int | None:
    """Return the largest power of two up to `most` that divides `rows`; None if it is less than SMALLEST."""
    size = min(rows & -rows, most)
    return size if size >= SMALLEST else None


def quantized_blocks(weight: Array, *, bits: int, size: int) -> tuple[Array, Array]:
    """Return the integers [K, N] in int8 and the scales [K / size, N] of a weight [K, N].

    Each scale is the one among SHARES with the least mean square of its block's errors.
    """
    rows, columns = weight.shape
    blocks = weight.reshape(rows // size, size, columns)
    most = 2 ** (bits - 1) - 1
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    best, scales = np.full_like(largest, np.inf), np.ones_like(largest)
    for share in SHARES:
        tried = np.maximum(largest * np.float32(share) / most, TINY).astype(np.float32)
        error = np.square(_rounded(blocks, tried, most) * tried - blocks).sum(axis=1, keepdims=True)
        scales, best = np.where(error < best, tried, scales), np.minimum(error, best)
    integers = _rounded(blocks, scales, most).astype(np.int8).reshape(rows, columns)
    return integers, scales[:, 0].astype(np.float32)


def _rounded(blocks: Array, scales: Array, most: int) -> Array:
    return np.clip(np.rint(blocks / scales), -most - 1, most)
