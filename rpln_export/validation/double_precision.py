"""Eager torch in fp64, one module's weights at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def in_float64(model: nn.Module) -> Iterator[None]:
    """Let `model` compute in fp64 from fp32 weights, for the duration of the context.

    A module's weights are widened when it is called and given back when it returns, so that no more memory is needed
    than the largest module takes in fp64. Of an embedding, the rows that were looked up are widened. Float inputs of
    the model must be fp64.
    """
    kept: dict[nn.Module, dict[str, nn.Parameter]] = {}

    def widen(module: nn.Module, _: Any) -> None:
        kept[module] = dict(module.named_parameters(recurse=False))
        for name, weight in kept[module].items():
            setattr(module, name, nn.Parameter(weight.double(), requires_grad=False))

    def give_back(module: nn.Module, *_: Any) -> None:
        for name, weight in kept.pop(module, {}).items():
            setattr(module, name, weight)

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            handles.append(module.register_forward_hook(lambda _, __, rows: rows.double()))
        elif any(True for _ in module.parameters(recurse=False)):
            handles.append(module.register_forward_pre_hook(widen))
            handles.append(module.register_forward_hook(give_back, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
