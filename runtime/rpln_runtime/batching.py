"""Batches of texts of similar length, which have little padding and need a bounded amount of memory.

Shapes: B batch, S sequence.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from rpln_runtime.engines.manifest import Profile
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Graph, Manifest, TensorSpec
from rpln_runtime.tasks import BATCH, CHOICES, MASK_AXIS, MASKED_POSITIONS, MASKED_TOKENS, SEQUENCE
from rpln_runtime.tokenization import Encoding

OnRows: TypeAlias = Callable[[int, int], None]
"""A function that is told, while rows are run, how many of them are done and how many there are."""

_MOST_TOKENS: Final = 4096
"""The most tokens in a batch, padding included. A larger batch would run no faster."""
_MOST_OUTPUT_BYTES: Final = 1 << 28
"""The most bytes that the outputs of a batch may take: 256 MiB. A larger batch would run no faster."""


def batches(lengths: Sequence[int], *, batch_size: int, batch_tokens: int) -> Iterator[list[int]]:
    """Yield batches of at most `batch_size` rows and `batch_tokens` tokens, as lists of indices of `lengths`.

    `lengths` are in tokens. Padding counts: a batch has as many tokens as its longest row, times its rows. The longest
    rows come first: if memory is short, the first batch shows it. A row longer than `batch_tokens` is a batch of its
    own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        rows = max(min(batch_size, batch_tokens // longest), 1)
        yield order[start : start + rows]
        start += rows


def rows_within(profiles: Sequence[Profile], batch_size: int, longest: int = 1) -> int:
    """Return `batch_size`, or less if an engine with these `profiles` takes fewer rows of up to `longest` tokens."""
    reaching = [row for row in profiles if SEQUENCE not in row or longest <= row[SEQUENCE].maximum] or profiles
    return min(batch_size, max((row[BATCH].maximum for row in reaching if BATCH in row), default=batch_size))


def token_budget(specs: Sequence[TensorSpec], usable_length: int) -> int:
    """Return the most tokens, padding included, that a batch may have: 4,096, or fewer where its outputs are large.

    The outputs of such a batch fit into 256 MiB. `specs` are the outputs, and `usable_length` is the most tokens that
    the network takes.
    """
    per_token = sum(
        math.prod(size if isinstance(size, int) else usable_length for size in spec.shape[2:])
        * np.dtype(spec.dtype).itemsize
        for spec in specs
        if SEQUENCE in spec.shape
    )
    return min(_MOST_TOKENS, _MOST_OUTPUT_BYTES // max(per_token, 1))


def costs_from_encodings(encodings: Sequence[Encoding], specs: Sequence[TensorSpec], manifest: Manifest) -> list[int]:
    """Return the cost of each row in tokens, which `batches` takes as its length.

    The cost is the number of the row's tokens, or, if that is more, the part of 256 MiB that the logits of its mask
    tokens take, as the same part of 4,096 tokens. So if the cost of a batch is at most `token_budget`, the logits of
    its mask tokens fit into 256 MiB, too. `specs` are the outputs that are asked for.
    """
    per_mask = sum(
        math.prod(size for size in spec.shape if isinstance(size, int)) * np.dtype(spec.dtype).itemsize
        for spec in specs
        if not {MASK_AXIS, MASKED_TOKENS}.isdisjoint(spec.shape)
    )
    tokens_per_mask = per_mask * _MOST_TOKENS / _MOST_OUTPUT_BYTES
    return [max(len(row), math.ceil(masks_of(row, manifest).size * tokens_per_mask)) for row in encodings]


def masks_of(encoding: Encoding, manifest: Manifest) -> np.ndarray:
    """Return the indices of the mask tokens in `encoding`."""
    return np.flatnonzero(encoding.ids == manifest.mask_token_id)


def feeds_from_encodings(encodings: Sequence[Encoding], graph: Graph, manifest: Manifest) -> dict[str, np.ndarray]:
    """Return an array for every input of `graph`: int64, (rows, tokens), padded on the right.

    A head mask, which has no such axes, gets ones. For multiple choice, whose inputs are (batch, choices, sequence),
    each encoding becomes a row with one choice: the graph scores every choice by itself. Raises InputError for an input
    that cannot be made from text.
    """
    pad = manifest.pad_token_id
    ids_BS = _padded([encoding.ids for encoding in encodings], pad)
    real_BS = ids_BS != pad
    types_BS = _padded([encoding.type_ids for encoding in encodings], 0)
    arrays = {
        "input_ids": ids_BS,
        "attention_mask": _padded([np.ones_like(encoding.ids) for encoding in encodings], 0),
        "token_type_ids": types_BS if manifest.token_types else np.zeros_like(types_BS),
        # As RoBERTa: tokens are counted from pad_token_id + 1 on, and padding has the position pad_token_id.
        "position_ids": np.cumsum(real_BS, axis=1) * real_BS + pad,
        MASKED_POSITIONS.name: _padded([masks_of(encoding, manifest) for encoding in encodings], 0),
    }
    feeds = {}
    for spec in graph.inputs:
        if all(isinstance(axis, int) for axis in spec.shape):
            # A head mask: every head takes part.
            feeds[spec.name] = np.ones([int(axis) for axis in spec.shape], spec.dtype)
        elif spec.name in arrays:
            feeds[spec.name] = np.expand_dims(arrays[spec.name], 1) if CHOICES in spec.shape else arrays[spec.name]
        else:
            raise InputError(
                f"the graph takes {spec.name!r}, which cannot be made from text: use load() and Session.run, or export "
                "the checkpoint without it."
            )
    return feeds


def rows_from_outputs(
    outputs: Mapping[str, np.ndarray], encodings: Sequence[Encoding], graph: Graph, manifest: Manifest
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the outputs of each encoding, by name, as fp32 arrays without padding.

    The arrays may be views of the whole batch's: copy what you keep, so that the batch can be freed.
    """
    axes = {spec.name: spec.shape for spec in graph.outputs}
    ends = np.cumsum([0, *(masks_of(encoding, manifest).size for encoding in encodings)])
    for row, encoding in enumerate(encodings):
        listed = slice(ends[row], ends[row + 1])
        own = slice(ends[row + 1] - ends[row])
        cuts: dict[str | int, slice] = {SEQUENCE: slice(len(encoding)), MASK_AXIS: own, MASKED_TOKENS: listed}
        yield {
            name: _cut(array if MASKED_TOKENS in axes[name] else array[row], axes[name], cuts).astype(
                np.float32, copy=False
            )
            for name, array in outputs.items()
        }


def _cut(array: np.ndarray, axes: tuple[str | int, ...], cuts: Mapping[str | int, slice]) -> np.ndarray:
    """Return `array` cut to the slices in `cuts`, which are given by axis. Its axes are the last ones of `axes`."""
    return array[tuple(cuts.get(axis, slice(None)) for axis in axes[-array.ndim :])]


def _padded(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
    array = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for target, row in zip(array, rows, strict=True):
        target[: len(row)] = row
    return array
