"""Eager torch in fp64 is what the whole network in fp64 computes, and leaves the network as it was."""

import copy

import numpy as np
import pytest
import torch

from rpln_export.validation.comparison import torch_feeds
from rpln_export.validation.double_precision import in_float64
from tests.graphs.fusions import GRAPHS, traced


@pytest.mark.parametrize(("task", "variant"), GRAPHS)
def test_weights_widened_one_module_at_a_time_give_what_a_wide_network_gives(task: str, variant: str) -> None:
    network = traced(task, variant)
    call = copy.deepcopy(network.call)
    before = {name: (weight.data_ptr(), weight.dtype) for name, weight in call.named_parameters()}
    feeds = network.stress_cases()[-2].feeds
    with torch.inference_mode(), in_float64(call):
        found = call(*torch_feeds(call, feeds, exact=True))
    assert {name: (weight.data_ptr(), weight.dtype) for name, weight in call.named_parameters()} == before
    wide = copy.deepcopy(call).double()
    with torch.inference_mode():
        expected = wide(*torch_feeds(wide, feeds, exact=True))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        # Kernels may add in another order, by where memory is aligned. In fp32 the difference would be 1e-7 and more.
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-13 * max(1.0, other.abs().max()))


def test_weights_are_given_back_after_an_error() -> None:
    network = traced("fill-mask")
    call = copy.deepcopy(network.call)

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    feeds = torch_feeds(call, network.stress_cases()[0].feeds, exact=True)
    failing = call.model.base_model.encoder.layer[1].attention.LayerNorm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"), in_float64(call):
        call(*feeds)
    failing.remove()
    assert {weight.dtype for weight in call.parameters()} == {torch.float32}
    with torch.inference_mode():
        (logits,) = call(*torch_feeds(call, network.stress_cases()[0].feeds, exact=False))
    assert logits.dtype == torch.float32
