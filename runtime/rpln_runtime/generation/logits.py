"""Changes of logits before sampling, and probabilities. Each function returns new logits; -inf excludes a token.

They compute what the classes of these names in transformers' generation/logits_process.py do (4.57.6 and 5.23), except
that top-p also keeps all tokens that are as likely as the last one that it keeps.

Shapes: R rows, V vocabulary. All logits are fp32.
"""

import numpy as np

from rpln_runtime.generation.options import GenerationOptions


def warp(logits_RV: np.ndarray, options: GenerationOptions) -> np.ndarray:
    """Return the logits with the changes that `options` ask for, in the order of transformers."""
    if options.temperature != 1:
        logits_RV = temperature(logits_RV, options.temperature)
    if options.top_k:
        logits_RV = top_k(logits_RV, options.top_k)
    if options.top_p < 1:
        logits_RV = top_p(logits_RV, options.top_p)
    if options.min_p:
        logits_RV = min_p(logits_RV, options.min_p)
    return logits_RV


def temperature(logits_RV: np.ndarray, value: float) -> np.ndarray:
    """Divide the logits by `value`: above 1 it makes tokens more equally likely, below 1 less."""
    return logits_RV / np.float32(value)


def top_k(logits_RV: np.ndarray, count: int) -> np.ndarray:
    """Keep the `count` likeliest tokens, and those that are as likely as the last of them."""
    count = min(count, logits_RV.shape[1])
    least_R1 = np.partition(logits_RV, -count, axis=1)[:, -count, None]
    return _keep(logits_RV, logits_RV >= least_R1)


def top_p(logits_RV: np.ndarray, mass: float) -> np.ndarray:
    """Keep the fewest likeliest tokens whose probabilities add up to `mass` or more (Holtzman et al., 2019)."""
    ascending_RV = np.sort(logits_RV, axis=1)
    left_out_R = (np.cumsum(softmax(ascending_RV), axis=1) <= 1 - mass).sum(axis=1)
    last = np.minimum(left_out_R, logits_RV.shape[1] - 1)
    return _keep(logits_RV, logits_RV >= np.take_along_axis(ascending_RV, last[:, None], axis=1))


def min_p(logits_RV: np.ndarray, share: float) -> np.ndarray:
    """Keep the tokens that have at least `share` times the probability of the likeliest (Nguyen et al., 2024)."""
    probabilities_RV = softmax(logits_RV)
    return _keep(logits_RV, probabilities_RV >= np.float32(share) * probabilities_RV.max(axis=1, keepdims=True))


def softmax(logits_RV: np.ndarray) -> np.ndarray:
    """Return the probabilities, (R, V). At least one logit in each row must be finite."""
    exponentials_RV = np.exp(logits_RV - logits_RV.max(axis=1, keepdims=True))
    return np.asarray(exponentials_RV / exponentials_RV.sum(axis=1, keepdims=True))


def log_softmax(logits_RV: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities, (R, V)."""
    shifted_RV = logits_RV - logits_RV.max(axis=1, keepdims=True)
    return np.asarray(shifted_RV - np.log(np.exp(shifted_RV).sum(axis=1, keepdims=True)))


def _keep(logits_RV: np.ndarray, kept_RV: np.ndarray) -> np.ndarray:
    return np.where(kept_RV, logits_RV, np.float32(-np.inf))
