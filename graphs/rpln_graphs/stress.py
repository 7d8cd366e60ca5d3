"""The stress set: inputs chosen to break an export, by batches, lengths, masks, token types and extreme ids."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rpln_graphs.feeds import Feeds, WantedInput, build_feeds
from rpln_runtime.tasks import (
    BATCH,
    CHOICES,
    ENCODER_SEQUENCE,
    MASK_AXIS,
    MASKED_POSITIONS,
    MASKED_TOKENS,
    SEQUENCE,
    Tensor,
)

BATCHES: Final = (1, 2, 7)
"""The numbers of texts in a batch."""
LENGTHS: Final = (1, 2, 5, 17)
"""The numbers of tokens of a batch's texts, padding included."""
MASK_KINDS: Final = ("none", "right", "left", "holes", "empty")
"""Where the padding is. With `empty`, one row is all padding, and the others have holes."""
CHOICE_COUNT: Final = 3
"""The number of choices of each question."""
MOST_POSITIONS: Final = 4
"""The most positions that logits are asked for in each text."""
SHARE_OF_MASKS: Final = 0.3
"""The share of mask tokens in batches with many of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one network's inputs.

    Attributes:
        usable_length: the most tokens of a text.
        vocab_size: the number of token ids.
        type_vocab_size: the number of token types.
        pad_token_id: the id of padding.
        sizes: the sizes of axes that are named after fields of the config.
        mask_token_id: the id of the mask tokens that some cases are to have; None for none.
    """

    usable_length: int
    vocab_size: int
    type_vocab_size: int
    pad_token_id: int
    sizes: Mapping[str, int]
    mask_token_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One batch of the stress set.

    `mask` is [rows, sequence], with 1 at real tokens, however many axes the inputs of the task have. `mask_kind` says
    where its padding is. `mask_token_id` is the id of mask tokens, if the graph looks for them.
    """

    name: str
    feeds: Feeds
    mask: NDArray[np.int64]
    mask_kind: str = "none"
    mask_token_id: int | None = None

    @property
    def tokens(self) -> int:
        """The number of tokens, padding included, that a network without a cache computes."""
        return self.mask.size

    @property
    def batch(self) -> int:
        """The number of texts, or of questions with choices."""
        return len(self.feeds.get("input_ids", self.mask))

    @property
    def length(self) -> int:
        """The number of tokens of a text, padding and those in a cache included."""
        return int(self.mask.shape[-1])

    def selected(self, values: NDArray[Any], axes: Sequence[str | int]) -> NDArray[Any]:
        """Return the part of `values` [rows, sequence, ...] at the tokens that an output with these `axes` describes.

        These are the mask tokens of all texts in one list, the tokens at `masked_positions`, or all tokens.
        """
        index: Any = ...
        if MASKED_TOKENS in axes:
            index = self.feeds["input_ids"] == self.mask_token_id
        elif MASK_AXIS in axes:
            index = np.arange(len(values))[:, None], self.feeds[MASKED_POSITIONS.name]
        selected: NDArray[Any] = values[index]
        return selected


def stress_cases(inputs: Sequence[Tensor], limits: Limits) -> Iterator[Case]:
    """Yield the stress set for a graph with these inputs, the same on every call.

    It has every combination of batch, length and mask, and one text of the usable length.
    """
    rng = np.random.default_rng(0)
    for batch, length, mask in itertools.product(BATCHES, LENGTHS, MASK_KINDS):
        # A single token leaves no room for padding, and a batch needs a row with tokens.
        if length < limits.usable_length and (length > 1 or mask == "none") and (batch > 1 or mask != "empty"):
            yield _case(inputs, limits, rng, batch=batch, length=length, mask=mask)
    yield _case(inputs, limits, rng, batch=1, length=limits.usable_length, mask="none")


def feeds_from_rows(
    inputs: Sequence[Tensor], sizes: Mapping[str, int], rows: Mapping[str, Callable[[], NDArray[Any]]]
) -> Feeds:
    """Return an array for each of `inputs`: what its function in `rows` makes, in the shape and type of the input."""
    wanted = (
        WantedInput(
            tensor.name, tensor.dtype, tuple(axis if isinstance(axis, int) else sizes[axis] for axis in tensor.axes)
        )
        for tensor in inputs
    )
    return build_feeds(wanted, lambda name, _: rows[name]())


def _case(
    inputs: Sequence[Tensor], limits: Limits, rng: np.random.Generator, *, batch: int, length: int, mask: str
) -> Case:
    """Return the case of a batch, a length and a kind of mask."""
    choices = CHOICE_COUNT if any(CHOICES in tensor.axes for tensor in inputs) else 1
    rows = batch * choices
    keep = random_mask(mask, rows, length, rng)
    sizes = {**limits.sizes, BATCH: batch, CHOICES: choices, SEQUENCE: length, ENCODER_SEQUENCE: length}
    if any(MASK_AXIS in tensor.axes for tensor in inputs):
        sizes[MASK_AXIS] = int(rng.integers(0, MOST_POSITIONS + 1))
    heads = (limits.sizes["num_hidden_layers"], limits.sizes["num_attention_heads"])
    made: dict[str, Callable[[], NDArray[Any]]] = {
        "input_ids": lambda: _ids(limits, rng, keep),
        "attention_mask": lambda: keep,
        "token_type_ids": lambda: rng.integers(0, limits.type_vocab_size, keep.shape),
        "position_ids": lambda: limits.pad_token_id + np.cumsum(keep, axis=-1) * keep,
        "inputs_embeds": lambda: rng.standard_normal((*keep.shape, limits.sizes["hidden_size"])),
        "head_mask": lambda: rng.integers(0, 2, heads),
        MASKED_POSITIONS.name: lambda: rng.integers(0, length, (rows, sizes[MASK_AXIS])),
    }
    name = f"batch {batch} x length {length}, mask {mask}"
    return Case(
        name=name,
        feeds=feeds_from_rows(inputs, sizes, made),
        mask=keep,
        mask_kind=mask,
        mask_token_id=limits.mask_token_id,
    )


def _ids(limits: Limits, rng: np.random.Generator, keep: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return random ids, and padding where `keep` is 0; in some batches, mask tokens replace some or all of both."""
    ids = np.where(keep == 1, random_ids(limits, rng, keep.shape), limits.pad_token_id)
    if limits.mask_token_id is None:
        return ids
    places = {
        "none": np.zeros_like(keep),
        "first": np.arange(keep.shape[1]) == 0,
        "last": np.arange(keep.shape[1]) == keep.shape[1] - 1,
        "many": rng.random(keep.shape) < SHARE_OF_MASKS,
        "all": np.ones_like(keep),
    }
    chosen = places[rng.choice(list(places))]
    return np.where(chosen, limits.mask_token_id, ids)


def arrays_from_mask(mask: NDArray[Any], *, pad: int, past: int = 0) -> Feeds:
    """Return the inputs that follow from `mask` [rows, sequence], 1 at real tokens, after `past` earlier tokens."""
    real = mask.astype(np.int64)
    return {
        "attention_mask": np.concatenate([np.ones((len(real), past), dtype=np.int64), real], axis=1),
        "encoder_attention_mask": real,
        "position_ids": pad + (past + np.cumsum(real, axis=1)) * real,
        "token_type_ids": np.zeros_like(real),
    }


def random_ids(limits: Limits, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return random ids of any token but padding; the first and the last are the smallest and the largest id."""
    ids = rng.integers(0, limits.vocab_size, shape)
    ids[-1, -1] = limits.vocab_size - 1
    ids[0, 0] = 0
    return np.where(ids == limits.pad_token_id, (limits.pad_token_id + 1) % limits.vocab_size, ids)


def random_mask(kind: str, rows: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return [rows, length] with 1 at real tokens; every row has one, except the `empty` row."""
    real = rng.integers(1, length + 1, (rows, 1))
    position = np.arange(length)
    masks = {
        "none": np.ones((rows, length), dtype=np.int64),
        "right": (position < real).astype(np.int64),
        "left": (position >= length - real).astype(np.int64),
        "holes": (rng.random((rows, length)) < 0.6).astype(np.int64),
    }
    masks["holes"][:, length // 2] = 1
    masks["empty"] = masks["holes"].copy()
    masks["empty"][rows - 1] = 0
    return masks[kind]
