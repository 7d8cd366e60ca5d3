"""Compares graphs at real tokens only, because a packed graph computes nothing at padding."""

import numpy as np
import onnx_ir as ir

from rpln_graphs.stress import Case
from rpln_runtime.tasks import ENCODER_SEQUENCE, SEQUENCE, Tensor
from tests.graphs.networks import USABLE_LENGTH, Network
from tests.graphs.text_graphs import Arrays, runner

OVER_TOKENS = (SEQUENCE, ENCODER_SEQUENCE)
LENGTHS = {1, 5, USABLE_LENGTH}


def at_real_tokens(network: Network, outputs: Arrays, case: Case) -> Arrays:
    """Return the outputs at real tokens, and attentions of real queries. Outputs that belong to a text are kept."""
    tensors = {name: tensor for tensor in network.outputs for name in tensor.names(network.call.layers)}
    return {name: _real(array, tensors[name], case) for name, array in outputs.items()}


def _real(array: np.ndarray, tensor: Tensor, case: Case) -> np.ndarray:
    axes = [axis for axis, size in enumerate(tensor.axes) if size in OVER_TOKENS]
    return np.moveaxis(array, axes[0], 1)[case.mask == 1] if axes else array


def difference(expected: Arrays, found: Arrays) -> float:
    """Return the largest difference over all outputs."""
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        assert np.isfinite(found[name]).all(), name
    return max(float(np.abs(expected[name] - found[name]).max(initial=0)) for name in expected)


def short_cases(network: Network) -> list[Case]:
    """Return of the stress set each batch under each mask at one length, a single token, and the longest text."""
    return [case for case in network.stress_cases() if case.mask.shape[1] in LENGTHS]


def packing_difference(network: Network, plain: ir.Model, packed: ir.Model) -> float:
    """Return the largest difference between two graphs of a network, over all masks of the stress set."""
    one, other = runner(plain), runner(packed)
    return max(
        difference(
            at_real_tokens(network, one(case.feeds), case),
            at_real_tokens(network, other(case.feeds), case),
        )
        for case in short_cases(network)
    )


def eager_difference(network: Network, packed: ir.Model) -> float:
    """Return the largest difference between a graph and eager torch, over all masks of the stress set."""
    compute = runner(packed)
    return max(
        difference(
            at_real_tokens(network, network.eager(case.feeds), case),
            at_real_tokens(network, compute(case.feeds), case),
        )
        for case in short_cases(network)
    )
