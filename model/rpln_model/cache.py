"""Keys and values of earlier tokens: what a caller may pass in, and what one layer sees of it.

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
    """How many tokens came before, padding included."""
    # Not int(...): while a graph is traced, the length is a symbol.
    length: int = 0
    if isinstance(past_key_values, tuple | list):
        length = past_key_values[0][0].shape[-2]
    elif past_key_values is not None:
        length = past_key_values.get_seq_length()
    return length


def cache_from_past(past_key_values: Past | None, *, use_cache: bool, layers: int) -> Any:
    """The cache a forward pass reads and extends, or None when there is neither a past nor a wish to keep one."""
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
    """One attention's place in a cache."""

    def stored(self) -> KeyValue | None:
        """Keys and values that make projecting unnecessary."""

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """Store new keys and values; return all there are to attend to."""


@dataclass(frozen=True, slots=True)
class SelfSlot:
    """Grows by the new tokens."""

    cache: Any
    layer: int

    def stored(self) -> None:
        """New tokens always have to be projected."""

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """The earlier tokens' keys and values with the new ones behind."""
        pair: KeyValue = self.cache.update(key, value, self.layer)
        return pair


@dataclass(frozen=True, slots=True)
class CrossSlot:
    """Filled once: the encoder's output does not change while a sequence is decoded."""

    cache: Any
    layer: int

    def stored(self) -> KeyValue | None:
        """The encoder's keys and values, once they are there."""
        if not self.cache.is_updated.get(self.layer):
            return None
        layer = self.cache.cross_attention_cache.layers[self.layer]
        return layer.keys, layer.values

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """Keep the encoder's keys and values for the steps to come."""
        pair: KeyValue = self.cache.cross_attention_cache.update(key, value, self.layer)
        self.cache.is_updated[self.layer] = True
        return pair


@dataclass(frozen=True, slots=True)
class GivenSlot:
    """Filled from outside: what the encoder's output was projected to, so that the output itself is not needed."""

    key_value: KeyValue

    def stored(self) -> KeyValue:
        """The encoder's keys and values."""
        return self.key_value

    def update(self, key: Tensor, value: Tensor) -> KeyValue:  # noqa: ARG002 # the protocol's
        """Nothing is ever projected for this slot."""
        raise AssertionError


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValues:
    """Keys and values per layer, as the inputs and outputs of a graph are: no object grows in place.

    `past` is empty where nothing came before, `cross` where no encoder's keys and values are given. A forward pass
    leaves the past with the new tokens behind in `present`.
    """

    past: Sequence[KeyValue] = ()
    cross: Sequence[KeyValue] = ()
    present: dict[int, KeyValue] = field(default_factory=dict)

    def get_seq_length(self) -> int:
        """How many tokens came before."""
        return self.past[0][0].shape[-2] if self.past else 0

    def update(self, key: Tensor, value: Tensor, layer: int) -> KeyValue:
        """All keys and values there are to attend to."""
        if self.past:
            past_key, past_value = self.past[layer]
            key, value = torch.cat([past_key, key], dim=-2), torch.cat([past_value, value], dim=-2)
        self.present[layer] = key, value
        return key, value


def holds_memory(cache: Any) -> bool:
    """Whether cross-attention can do without the encoder's output."""
    return isinstance(cache, KeyValues) and bool(cache.cross)


def slots(cache: Any, layer: int) -> tuple[Slot | None, Slot | None]:
    """Where the self-attention and the cross-attention of a layer keep their keys and values.

    A cache without a part for cross-attention keeps only the first; the second is then projected anew each time.
    """
    if cache is None:
        return None, None
    if holds_memory(cache):
        return SelfSlot(cache, layer), GivenSlot(cache.cross[layer])
    if hasattr(cache, "cross_attention_cache"):
        return SelfSlot(cache.self_attention_cache, layer), CrossSlot(cache, layer)
    return SelfSlot(cache, layer), None
