"""Helpers for tests of int8: quantizers of tiny networks, graphs rounded by them, and an emulation in torch."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from rpln_graphs.passes.quantize_attention import projected_for_scores
from rpln_graphs.quantization.observe import observe
from rpln_graphs.quantization.products import LayerProduct, layer_products
from rpln_graphs.quantization.quantizers import Quantizers
from rpln_graphs.quantization.range_methods import RANGE_METHODS, quantizers_from_observed
from rpln_graphs.rewriting.base import Context, CountingPass
from rpln_runtime.tasks import TASKS
from tests.graphs.networks import Network, copied
from tests.graphs.text_graphs import Arrays

ENCODERS = [task.name for task in TASKS.values() if task.postprocess is not None]
"""Tasks whose networks are encoders."""
ATTENTION = "encoder.layer.0.attention"
FEED_FORWARD = "encoder.layer.0.feed_forward"


def names_to_round(graph: ir.Model) -> list[str]:
    """Return the names of the activations that a static form rounds."""
    names = [str(product.activation.name) for product in layer_products(graph)]
    return names + [str(node.outputs[0].name) for node in projected_for_scores(graph)]


def context_of(network: Network, graph: ir.Model, *, kept: Collection[str] = ()) -> Context:
    """Return a context with quantizers over the whole ranges of the stress set."""
    observed = observe(graph, names_to_round(graph), [case.feeds for case in network.stress_cases()[::3]])
    quantizers = quantizers_from_observed(observed, RANGE_METHODS["min-max"])
    return Context(quantizers=quantizers, kept=frozenset(kept))


def quantized(graph: ir.Model, context: Context, *kinds: type[CountingPass]) -> ir.Model:
    """Return a copy of `graph` after the passes."""
    copy = copied(graph)
    for kind in kinds:
        kind.configure(copy, context)(copy)
    return copy


def texts(network: Network, count: int = 24) -> list[Arrays]:
    """Return batches of one short text without padding."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(count):
        ids = rng.integers(4, network.config.vocab_size, (1, int(rng.integers(2, 7))))
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids % 3}
        found.append({name: feeds[name] for name in network.call.input_names})
    return found


# -- an emulation ----------------------------------------------------------------------------------------------------


@contextmanager
def rounding(network: Network, graph: ir.Model, quantizers: Quantizers | None) -> Iterator[None]:
    """Let the linear layers of the eager network round as an int8 graph does.

    The rounding is torch's own. `graph` is the graph before it was quantized, whose weights are the network's. Without
    `quantizers`, inputs are rounded by the range that they have in the batch.
    """
    modules, handles = dict(network.model.named_modules()), []
    weights = {module: module.weight.detach().clone() for module in modules.values() if isinstance(module, nn.Linear)}
    try:
        for product in layer_products(graph):
            module = module_of(product, modules)
            module.weight.data = rounded_rows(weights[module])
            name = str(product.activation.name)
            handles.append(module.register_forward_pre_hook(_rounding_inputs(quantizers, name)))
        for node in projected_for_scores(graph) if quantizers is not None else []:
            name = str(node.outputs[0].name)
            module = next(one for path, one in modules.items() if path.endswith(name.removesuffix(".Add")))
            handles.append(module.register_forward_hook(_rounding_output(quantizers, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, weight in weights.items():
            module.weight.data = weight


def module_of(product: LayerProduct, modules: dict[str, nn.Module]) -> Any:
    """Return the linear layer that a product was traced from."""
    path = str(product.weight.name).removesuffix(".weight.T")
    (module,) = (module for name, module in modules.items() if name.endswith(path))
    return module


def rounded_rows(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight [N, K] of a linear layer in 8 bits, each output channel by its largest magnitude."""
    scales = weight.abs().amax(dim=1) / 127
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)


def _rounding_inputs(quantizers: Quantizers | None, name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (_rounded(inputs[0], quantizers, name),)

    return hook


def _rounding_output(quantizers: Quantizers | None, name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return _rounded(output, quantizers, name)

    return hook


def _rounded(x: torch.Tensor, quantizers: Quantizers | None, name: str) -> torch.Tensor:
    if quantizers is not None:
        scale, zero_point = quantizers[name].scale, quantizers[name].zero_point
    else:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = (high - low) / 255
        zero_point = round(-low / scale)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)
