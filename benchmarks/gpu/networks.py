"""NETWORKS: the base-size networks that are measured. Their weights are made anew wherever they are needed.

Every matrix holds one random vector again and again, each row one place further on (a Hankel matrix). So a graph with
hundreds of megabytes of weights is compressed to a few megabytes, however its passes transpose it, while the products
cost what they always cost. All numbers come from numpy, whose generators give the same ones on every machine.
"""

import hashlib
from dataclasses import replace
from typing import Any, Final

import numpy as np

from benchmarks.encoder_bundles import model_of
from benchmarks.encoder_cases import Network

SPREAD: Final = 0.02
"""The standard deviation of weights, as transformers initializes them."""
NETWORKS: Final = {
    "tagger": Network(task="token-classification"),
    "writer": Network(task="text-generation"),
}


def small(network: Network) -> Network:
    """Return a network for a rehearsal: the same task in two layers of 64."""
    return replace(network, layers=2, hidden=64, vocabulary=7500)


def hankel_model(network: Network) -> Any:
    """Return transformers' own model of a network, in fp32 and in evaluation mode."""
    import torch

    with torch.device("meta"):
        model = model_of(network)
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
        for name, buffer in model.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
            else:
                buffer.zero_()
    model.tie_weights()
    return model


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the parameter called `name` in fp32: a Hankel matrix, or a random vector; LayerNorms scale by about 1."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.default_rng(seed).standard_normal(sum(shape), dtype=np.float32) * np.float32(SPREAD)
    if len(shape) == 1:
        is_scale = "norm" in name.lower() and name.endswith("weight")
        return values + np.float32(1.0) if is_scale else values
    rows, columns = shape
    return np.array(np.lib.stride_tricks.sliding_window_view(values, columns)[:rows])
