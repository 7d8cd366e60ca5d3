"""Error-aware rounding (GPTQ): the rows of a weight that are rounded later make up for the errors of those before.

    x [T, K]    the inputs of a product over calibration texts, of T tokens together
    W [K, N]    its weight, which has K / B blocks of B rows in each of its N columns
    H [K, K]    x^T x, the moments of the inputs

A rounded weight Q is good if x Q is near x W: if (W - Q)^T H (W - Q) has a small trace. Rounding to the nearest makes
W - Q itself small, and knows nothing of inputs that are large, or that go up and down together.

E. Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, ICLR 2023,
Algorithm 1.
"""

from typing import Final

import numpy as np

from rpln_graphs.quantization.blocks import Blocks, limits_of_bits, quantized_blocks
from rpln_graphs.quantization.quantizers import TINY, Array

DAMPING: Final = 0.01
"""The share of the mean of H's diagonal that is added to the diagonal, so that few texts have an inverse, too."""


def compensation(moments: Array) -> Array:
    """Return the upper triangular U [K, K], in fp32, with U^T U = (H + damping)^-1; `moments` are H.

    Row k of U says how the rows behind k make up for the error of row k. It is computed in fp64.
    """
    damped = moments.astype(np.float64)
    damped[np.diag_indices_from(damped)] += DAMPING * max(float(np.diag(damped).mean()), TINY)
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def error_aware_blocks(weight: Array, factor: Array, *, bits: int, size: int, positive: bool = False) -> Blocks:
    """Return a weight [K, N] in blocks of `size` rows, rounded for inputs whose `compensation` is `factor` [K, K].

    A block gets its scales as in `quantized_blocks`, once it makes up for the errors of the blocks before.
    """
    least, most = limits_of_bits(bits)
    rows, columns = weight.shape
    left = weight.astype(np.float32)
    integers, scales = np.empty((rows, columns), np.int8), np.empty((rows // size, columns), weight.dtype)
    for start in range(0, rows, size):
        block, ahead = slice(start, start + size), slice(start + size, rows)
        made_up = left[block].astype(weight.dtype)
        _, scales[start // size : start // size + 1] = quantized_blocks(
            made_up, bits=bits, size=size, positive=positive
        )
        scale = scales[start // size].astype(np.float32)
        errors = np.empty((size, columns), np.float32)
        for place, row in enumerate(range(start, start + size)):
            integers[row] = np.clip(np.rint(left[row] / scale), least, most)
            errors[place] = (left[row] - integers[row] * scale) / factor[row, row]
            behind = slice(row + 1, start + size)
            left[behind] -= np.outer(factor[row, behind], errors[place])
        left[ahead] -= factor[block, ahead].T @ errors
    return integers, scales
