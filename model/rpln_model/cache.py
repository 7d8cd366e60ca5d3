"""Keys and values of earlier tokens: what a caller may pass in, and what a layer sees of them.

A past is a `Cache` of transformers (or anything with its `update` and `get_seq_length`), which is extended in place
and handed back, or a tuple with (key, value) or (key, value, cross key, cross value) per layer, each
(batch, heads, tokens, head size), for which an `EncoderDecoderCache` comes back, as in transformers 4.57. `KeyValues`
is this package's own: plain tensors in and out, for tracing, and the only one that replaces an encoder's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from rpln_model.errors import ModelInputError

KeyValue = tuple[Tensor, Tensor]
Past = Any  # a transformers Cache, its work-alike, or tuples of tensors: see the module's docstring


def length_of_past(past_key_values: Past | None) -> int:
    """Return the number of earlier tokens, padding included."""
    # Not int(...): while a graph is traced, the length is a symbol.
    length: int = 0
    if isinstance(past_key_values, tuple | list):
        length = past_key_values[0][0].shape[-2]
    elif past_key_values is not None:
        length = past_key_values.get_seq_length()
    return length


def cache_from_past(past_key_values: Past | None, *, use_cache: bool, layers: int) -> Any:
    """Return the cache that a forward pass reads and extends; None if there is no past and none is to be kept."""
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
    """The place of one attention in a cache."""

    def stored(self) -> KeyValue | None:
        """Return keys and values that need not be projected any more; None if there are none."""

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """Store new keys and values, and return all that the attention reads."""


@dataclass(frozen=True, slots=True)
class SelfSlot:
    """The place of a self-attention, which grows by the new tokens."""

    cache: Any
    layer: int

    def stored(self) -> None:
        """Return None: the keys and values of new tokens always have to be projected."""

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """Return the keys and values of the earlier tokens, followed by the new ones."""
        pair: KeyValue = self.cache.update(key, value, self.layer)
        return pair


@dataclass(frozen=True, slots=True)
class CrossSlot:
    """The place of a cross-attention, which is filled once: the encoder's output stays the same for all steps."""

    cache: Any
    layer: int

    def stored(self) -> KeyValue | None:
        """Return the keys and values of the encoder's output; None before they are filled in."""
        if not self.cache.is_updated.get(self.layer):
            return None
        layer = self.cache.cross_attention_cache.layers[self.layer]
        return layer.keys, layer.values

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """Keep the keys and values of the encoder's output for later steps, and return them."""
        pair: KeyValue = self.cache.cross_attention_cache.update(key, value, self.layer)
        self.cache.is_updated[self.layer] = True
        return pair


@dataclass(frozen=True, slots=True)
class GivenSlot:
    """The place of a cross-attention whose keys and values are given, so that the encoder's output is not needed."""

    key_value: KeyValue

    def stored(self) -> KeyValue:
        """Return the keys and values of the encoder's output."""
        return self.key_value

    def update(self, key: Tensor, value: Tensor) -> KeyValue:  # noqa: ARG002 # the protocol's
        """Raise AssertionError, because nothing is ever projected for this place."""
        raise AssertionError


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValues:
    """The keys and values of each layer as plain tensors, as a graph takes and returns them: no object grows in place.

    Attributes:
        past: the keys and values of earlier tokens; empty if there are none.
        cross: the keys and values of an encoder's output; empty if none are given.
        present: after a forward pass, the keys and values of the earlier and the new tokens, by layer.
    """

    past: Sequence[KeyValue] = ()
    cross: Sequence[KeyValue] = ()
    present: dict[int, KeyValue] = field(default_factory=dict)

    def get_seq_length(self) -> int:
        """Return the number of earlier tokens."""
        return self.past[0][0].shape[-2] if self.past else 0

    def update(self, key: Tensor, value: Tensor, layer: int) -> KeyValue:
        """Store the keys and values of earlier and new tokens in `present`, and return them."""
        if self.past:
            past_key, past_value = self.past[layer]
            key, value = torch.cat([past_key, key], dim=-2), torch.cat([past_value, value], dim=-2)
        self.present[layer] = key, value
        return key, value


def holds_memory(cache: Any) -> bool:
    """Return whether the cache has the keys and values of cross-attention, which then needs no encoder's output."""
    return isinstance(cache, KeyValues) and bool(cache.cross)


def slots(cache: Any, layer: int) -> tuple[Slot | None, Slot | None]:
    """Return the places of a layer's self-attention and cross-attention in `cache`; None for what it does not keep.

    Without a place, the keys and values of cross-attention are projected again in each step.
    """
    if cache is None:
        return None, None
    if holds_memory(cache):
        return SelfSlot(cache, layer), GivenSlot(cache.cross[layer])
    if hasattr(cache, "cross_attention_cache"):
        return SelfSlot(cache.self_attention_cache, layer), CrossSlot(cache, layer)
    return SelfSlot(cache, layer), None
