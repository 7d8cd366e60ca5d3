"""Weights in blocks: each run of values in a column shares a scale, so that 4 or 8 bits suffice for a value.

A weight [K, N] has K / size blocks in each of its N columns, and scales [K / size, N].
"""

import hashlib
from typing import Final

import numpy as np

from rpln_graphs.quantization.quantizers import TINY, Array

Blocks = tuple[Array, Array]
"""The integers [K, N] of a weight in int8, and the scales [K / size, N] of its blocks in fp32 or fp16."""

SHARES: Final = tuple(step / 40 for step in range(46, 27, -1))
"""The multiples of a block's scale that are tried: more than 1 leaves room for the other sign, and less than 1 clips a
little, which may cost less than coarse steps do."""


def block_size(rows: int, *, least: int, most: int) -> int | None:
    """Return the largest power of two up to `most` that divides `rows`; None if it is less than `least`."""
    size = min(rows & -rows, most)
    return size if size >= least else None


def identity_of_weight(weight: Array) -> bytes:
    """Return what tells a weight from others: a digest of its contents.

    Names do not, since the layers of an encoder and those of its decoder have the same ones.
    """
    return hashlib.blake2b(np.ascontiguousarray(weight).data, digest_size=16).digest()


def limits_of_bits(bits: int) -> tuple[int, int]:
    """Return the least and the largest signed integer of so many bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def quantized_blocks(weight: Array, *, bits: int, size: int, positive: bool = False) -> Blocks:
    """Return a weight [K, N], in fp32 or fp16, in blocks, each value rounded to the nearest integer.

    A scale may be negative unless it must be `positive`: of the integers, the least one has the largest magnitude, and
    it may stand for a positive extreme. Each scale is the one with the least mean square of its block's errors, among
    SHARES of the scale that lets the least integer stand for the extreme. Scales are numbers of the weight's own type.
    """
    rows, columns = weight.shape
    blocks = weight.reshape(rows // size, size, columns).astype(np.float32, copy=False)
    least, _ = limits_of_bits(bits)
    places = np.abs(blocks).argmax(axis=1)[:, np.newaxis]
    extremes = np.take_along_axis(blocks, places, axis=1)
    reaches = np.abs(extremes) if positive else -extremes
    smallest = np.float32(max(TINY, np.finfo(weight.dtype).smallest_subnormal))
    best, scales = np.full_like(extremes, np.inf), np.ones_like(extremes)
    for share in SHARES:
        tried = (reaches * np.float32(share) / -least).astype(weight.dtype).astype(np.float32)
        tried = np.where(np.abs(tried) < smallest, smallest, tried)
        error = np.square(_rounded(blocks, tried, least) * tried - blocks).sum(axis=1, keepdims=True)
        scales, best = np.where(error < best, tried, scales), np.minimum(error, best)
    integers = _rounded(blocks, scales, least).astype(np.int8).reshape(rows, columns)
    return integers, scales[:, 0].astype(weight.dtype)


def _rounded(blocks: Array, scales: Array, least: int) -> Array:
    return np.clip(np.rint(blocks / scales), least, -least - 1)
