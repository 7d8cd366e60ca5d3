"""A network cut to its first three layers, with modules and weights in common with the whole one.

Every layer behind the first is wired alike, so three of them show how all are wired: a first one, a middle one and a
last one. The cut network has objects of its own only for the modules that hold the list of layers, so that no
weight is copied and the whole network is never changed.
"""

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from rpln_graphs.calls import GraphCall
from rpln_graphs.trace_methods import LAYERS
from rpln_model.encoder import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStack:
    """The list of layers of a network. A graph that computes more than one network has several such lists.

    `name` is the list's path in the module that is traced, such as `model.roberta_prelayernorm.encoder.layer`.
    """

    name: str
    layers: nn.ModuleList

    @property
    def alike(self) -> bool:
        """Whether the layers differ in nothing but the values of their weights, none of which is another's."""
        kinds = {
            (repr(layer), tuple((name, weight.shape, weight.dtype) for name, weight in layer.named_parameters()))
            for layer in self.layers
        }
        weights = [id(weight) for layer in self.layers for weight in layer.parameters()]
        return len(kinds) == 1 and len(weights) == len(set(weights))


def stacks_from_call(call: GraphCall) -> list[LayerStack]:
    """Return the stacks that have more than LAYERS layers."""
    encoders = ((name, module) for name, module in call.named_modules() if isinstance(module, Encoder))
    return [
        LayerStack(name=f"{name}.layer", layers=encoder.layer)
        for name, encoder in encoders
        if len(encoder.layer) > LAYERS
    ]


def short_call(call: GraphCall) -> GraphCall | None:
    """Return the call of the network with `LAYERS` layers, or None where every layer has to be traced.

    Every layer has to be traced where no stack is longer; where the layers of one differ, as when heads of some are
    pruned; and where one input or output has a row for each layer (`head_mask`).
    """
    stacks = stacks_from_call(call)
    shared = any("num_hidden_layers" in tensor.axes for tensor in (*call.inputs, *call.outputs))
    if not stacks or shared or not all(stack.alike for stack in stacks):
        return None
    return GraphCall(_cut(call.model), call.inputs, call.outputs).eval()


def _cut(module: nn.Module) -> Any:
    """Return the module with `LAYERS` layers; what holds no list of layers is shared with the whole one."""
    if not any(isinstance(part, Encoder) for part in module.modules()):
        return module
    short: Any = copy.copy(module)
    # A copy of a module still shares the dictionary of its parts.
    vars(short)["_modules"] = {name: part and _cut(part) for name, part in vars(module)["_modules"].items()}
    if isinstance(short, Encoder):
        short.layer = short.layer[:LAYERS]
    config: Any = getattr(module, "config", None)
    if config is not None:
        short.config = copy.copy(config)
        short.config.num_hidden_layers = min(config.num_hidden_layers, LAYERS)
    return short
