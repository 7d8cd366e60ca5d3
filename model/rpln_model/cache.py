"""Caches: the keys and values of earlier tokens, as callers pass them in and as each layer reads and extends them.

`past_key_values` may be one of three things:
- a `Cache` of transformers, or any object with its methods `update` and `get_seq_length`. It is extended in place,
  and the forward pass returns it.
- a tuple of (key, value) or (key, value, cross key, cross value) for each layer, each of shape
  (batch, heads, tokens, head size). The forward pass returns an `EncoderDecoderCache`, as in transformers 4.57.
- a `KeyValues` of this package, which takes and gives plain tensors and so can be traced. Only this one can hold the
  cross-attention's keys and values in place of the encoder's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from rpln_model.errors import ModelInputError

KeyValue = tuple[Tensor, Tensor]
Past = Any  # a transformers Cache, an object like it, or tuples of tensors: see the module's docstring


def length_of_past(past_key_values: Past | None) -> int:
    """Return the number of tokens in the cache, padding included."""
    # int(...) would make it a constant of the graph: during tracing, the length is a symbol.
    length: int = 0
    if isinstance(past_key_values, tuple | list):
        length = past_key_values[0][0].shape[-2]
    elif past_key_values is not None:
        length = past_key_values.get_seq_length()
    return length


def cache_from_past(past_key_values: Past | None, *, use_cache: bool, layers: int) -> Any:
    """Return the cache that a forward pass reads and extends, or None if there is no past and none is to be kept."""
    if past_key_values is None:
        return _empty_cache() if use_cache else None
    if not isinstance(past_key_values, tuple | list):
        return past_key_values
    if len(past_key_values) != layers:
        raise ModelInputError(f"past_key_values has {len(past_key_values)} layers; expected {layers}, one per layer")
    cache = _empty_cache()
    for layer, tensors in enumerate(past_key_values):
        if len(tensors) not in (2, 4):
            raise ModelInputError(
                f"past_key_values has {len(tensors)} tensors for layer {layer}; expected (key, value) "
                "or (key, value, cross key, cross value)"
            )
        cache.self_attention_cache.update(*tensors[:2], layer)
        if len(tensors) == 4:
            cache.cross_attention_cache.update(*tensors[2:], layer)
            cache.is_updated[layer] = True
    return cache


def _empty_cache() -> Any:
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


class Slot(Protocol):
    """The part of a cache that belongs to one attention of one layer."""

    def stored(self) -> KeyValue | None:
        """Return keys and values that are to be used instead of new ones, or None if they have to be computed."""

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """Store new keys and values, and return all that the attention reads."""


@dataclass(frozen=True, slots=True)
class SelfSlot:
    """The slot of a self-attention, which grows by the new tokens."""

    cache: Any
    layer: int

    def stored(self) -> None:
        """Return None: the keys and values of new tokens always have to be computed."""

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """Append the keys and values of the new tokens to those of the earlier ones, and return all of them."""
        pair: KeyValue = self.cache.update(key, value, self.layer)
        return pair


@dataclass(frozen=True, slots=True)
class CrossSlot:
    """The slot of a cross-attention. It is filled once, because the encoder's output stays the same during decoding."""

    cache: Any
    layer: int

    def stored(self) -> KeyValue | None:
        """Return the keys and values of the encoder's output, or None before they are stored."""
        if not self.cache.is_updated.get(self.layer):
            return None
        layer = self.cache.cross_attention_cache.layers[self.layer]
        return layer.keys, layer.values

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """Store the keys and values of the encoder's output for later steps, and return them."""
        pair: KeyValue = self.cache.cross_attention_cache.update(key, value, self.layer)
        self.cache.is_updated[self.layer] = True
        return pair


@dataclass(frozen=True, slots=True)
class GivenSlot:
    """The slot of a cross-attention whose keys and values the caller gave, so that no encoder output is needed."""

    key_value: KeyValue

    def stored(self) -> KeyValue:
        """Return the keys and values that the caller gave."""
        return self.key_value

    def update(self, key: Tensor, value: Tensor) -> KeyValue:  # noqa: ARG002 - the protocol's arguments
        """Fail: this slot has its keys and values from the start."""
        raise AssertionError


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValues:
    """A cache whose tensors are the inputs and outputs of a graph. No tensor is extended in place.

    Attributes:
        past: the keys and values of earlier tokens for each layer; empty at the first step.
        cross: the keys and values of the encoder's output for each layer; empty where the output itself is given.
        present: filled by the forward pass: for each layer, `past` followed by the new tokens.
    """

    past: Sequence[KeyValue] = ()
    cross: Sequence[KeyValue] = ()
    present: dict[int, KeyValue] = field(default_factory=dict)

    def get_seq_length(self) -> int:
        """Return the number of earlier tokens."""
        return self.past[0][0].shape[-2] if self.past else 0

    def update(self, key: Tensor, value: Tensor, layer: int) -> KeyValue:
        """Return the earlier keys and values followed by the new ones, and store them in `present`."""
        if self.past:
            past_key, past_value = self.past[layer]
            key, value = torch.cat([past_key, key], dim=-2), torch.cat([past_value, value], dim=-2)
        self.present[layer] = key, value
        return key, value


def holds_memory(cache: Any) -> bool:
    """Return whether the cache holds the cross-attention's keys and values, so that no encoder output is needed."""
    return isinstance(cache, KeyValues) and bool(cache.cross)


def slots(cache: Any, layer: int) -> tuple[Slot | None, Slot | None]:
    """Return the slots of the self-attention and of the cross-attention of a layer.

    Without a cache both are None. A cache that has no part for cross-attention gives None for it; the cross-attention
    then computes its keys and values anew in every step.
    """
    if cache is None:
        return None, None
    if holds_memory(cache):
        return SelfSlot(cache, layer), GivenSlot(cache.cross[layer])
    if hasattr(cache, "cross_attention_cache"):
        return SelfSlot(cache.self_attention_cache, layer), CrossSlot(cache, layer)
    return SelfSlot(cache, layer), None
