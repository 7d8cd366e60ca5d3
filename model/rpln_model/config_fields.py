"""FIELDS: what the fields of a config.json may hold, checked before any work.

transformers 4.57 checks none of them, and transformers 5 only their types. Without the check, a wrong value ends in the
words of the library that meets it first, long after it was read.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

LARGEST_SIZE: Final = 2**24
"""The largest size of a table or a layer."""
MOST_LAYERS: Final = 1000
"""The largest number of layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The values that a field may hold: in words, and as a function that tells them."""

    words: str
    holds: Callable[[Any], bool]

    def or_null(self) -> "Values":
        """Return these values and null."""
        return Values(words=f"{self.words}, or null", holds=lambda value: value is None or self.holds(value))


def whole(low: int, high: int) -> Values:
    """Return the whole numbers from `low` to `high`."""
    return Values(
        words=f"a whole number from {low:,} to {high:,}", holds=lambda value: _is_whole(value) and low <= value <= high
    )


def number(low: float, high: float) -> Values:
    """Return the numbers from `low` to `high`."""
    return Values(
        words=f"a number from {low:g} to {high:g}",
        holds=lambda value: (
            (_is_whole(value) or isinstance(value, float)) and math.isfinite(value) and low <= value <= high
        ),
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_label_map(value: Any) -> bool:
    return isinstance(value, dict) and all(_names_whole(key) and isinstance(label, str) for key, label in value.items())


def _is_head_map(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _names_whole(layer) and isinstance(heads, list | set | tuple) and all(map(_is_whole, heads))
        for layer, heads in value.items()
    )


def _names_whole(key: Any) -> bool:
    """Return whether a key is a whole number, or a text that is one, as JSON has it."""
    return _is_whole(key) or (isinstance(key, str) and key.lstrip("-").isdecimal() and key.isascii())


SIZE: Final = whole(1, LARGEST_SIZE)
PROBABILITY: Final = number(0, 1)
FLAG: Final = Values(words="true or false", holds=lambda value: isinstance(value, bool))
TEXT: Final = Values(words="a text", holds=lambda value: isinstance(value, str))
DTYPE: Final = Values(
    words='the name of a type, as "float32"', holds=lambda value: isinstance(value, str | torch.dtype)
)
TEXTS: Final = Values(
    words="a list of texts",
    holds=lambda value: isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
)

FIELDS: Final[Mapping[str, Values]] = {
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "num_hidden_layers": whole(1, MOST_LAYERS),
    "num_attention_heads": SIZE,
    "intermediate_size": SIZE,
    "max_position_embeddings": SIZE,
    "type_vocab_size": SIZE,
    "cross_attention_hidden_size": SIZE.or_null(),
    "layer_norm_eps": number(0, 1),
    "initializer_range": number(0, 1000),
    "chunk_size_feed_forward": whole(0, LARGEST_SIZE),
    "hidden_dropout_prob": PROBABILITY,
    "attention_probs_dropout_prob": PROBABILITY,
    "classifier_dropout": PROBABILITY.or_null(),
    "position_embedding_type": TEXT,
    "is_decoder": FLAG,
    "add_cross_attention": FLAG,
    "tie_word_embeddings": FLAG,
    "num_labels": whole(0, LARGEST_SIZE).or_null(),
    "id2label": Values(
        words='an object with a text for each class, as {"0": "NEGATIVE", "1": "POSITIVE"}', holds=_is_label_map
    ).or_null(),
    "pruned_heads": Values(
        words='an object with a list of heads for each layer, as {"0": [1, 3]}', holds=_is_head_map
    ).or_null(),
    "architectures": TEXTS.or_null(),
    "dtype": DTYPE.or_null(),
    "torch_dtype": DTYPE.or_null(),
}
"""The fields of a network's configuration that are checked, and what each may hold. A field may be absent."""


def wrong_fields(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield, for each of the `fields` whose value FIELDS does not allow, what it is and what was expected."""
    for name, values in FIELDS.items():
        if name in fields and not values.holds(fields[name]):
            yield f"{name} is {_shown(fields[name])}; expected {values.words}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
