"""Batches of similar length: little padding, bounded memory.

Shapes: B batch, S sequence.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from rpln_runtime.engines.manifest import Profile
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Graph, Manifest, TensorSpec
from rpln_runtime.tasks import BATCH, CHOICES, MASK_AXIS, MASKED_POSITIONS, MASKED_TOKENS, SEQUENCE
from rpln_runtime.tokenization import Encoding

# Past these sizes a bigger batch is no quicker.
_MOST_TOKENS: Final = 4096
_MOST_OUTPUT_BYTES: Final = 1 << 28


def batches(lengths: Sequence[int], *, batch_size: int, batch_tokens: int) -> Iterator[list[int]]:
    """Split the indices of `lengths` into batches of at most `batch_size` rows and `batch_tokens` padded tokens.

    Longest first, so that memory peaks at once. A row longer than `batch_tokens` is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        rows = max(min(batch_size, batch_tokens // longest), 1)
        yield order[start : start + rows]
        start += rows


def rows_within(profiles: Sequence[Profile], batch_size: int, longest: int = 1) -> int:
    """Return `batch_size`, or less where an engine with `profiles` takes fewer rows of up to `longest` tokens."""
    reaching = [row for row in profiles if SEQUENCE not in row or longest <= row[SEQUENCE].maximum] or profiles
    return min(batch_size, max((row[BATCH].maximum for row in reaching if BATCH in row), default=batch_size))


def token_budget(specs: Sequence[TensorSpec], usable_length: int) -> int:
    """Return how many padded tokens a batch may hold so that the outputs `specs` stay within 256 MiB."""
    per_token = sum(
        math.prod(size if isinstance(size, int) else usable_length for size in spec.shape[2:])
        * np.dtype(spec.dtype).itemsize
        for spec in specs
        if SEQUENCE in spec.shape
    )
    return min(_MOST_TOKENS, _MOST_OUTPUT_BYTES // max(per_token, 1))


def costs_from_encodings(encodings: Sequence[Encoding], specs: Sequence[TensorSpec], manifest: Manifest) -> list[int]:
    """Return for each row as how many tokens it counts in a batch: its own, or more for the logits of its masks.

    A batch whose longest row counts n, of n times its rows within `token_budget`, keeps those within 256 MiB, too.
    """
    per_mask = sum(
        math.prod(size for size in spec.shape if isinstance(size, int)) * np.dtype(spec.dtype).itemsize
        for spec in specs
        if not {MASK_AXIS, MASKED_TOKENS}.isdisjoint(spec.shape)
    )
    tokens_per_mask = per_mask * _MOST_TOKENS / _MOST_OUTPUT_BYTES
    return [max(len(row), math.ceil(masks_of(row, manifest).size * tokens_per_mask)) for row in encodings]


def masks_of(encoding: Encoding, manifest: Manifest) -> np.ndarray:
    """Return where the mask tokens of a row are."""
    return np.flatnonzero(encoding.ids == manifest.mask_token_id)


def feeds_from_encodings(encodings: Sequence[Encoding], graph: Graph, manifest: Manifest) -> dict[str, np.ndarray]:
    """Pad `encodings` on the right and return an array for every input of `graph`.

    Tensors of multiple choice, (batch, choices, sequence), get one choice a row: the graph scores each on its own.
    Raises InputError for an input that does not follow from text.
    """
    pad = manifest.pad_token_id
    ids_BS = _padded([encoding.ids for encoding in encodings], pad)
    real_BS = ids_BS != pad
    arrays = {
        "input_ids": ids_BS,
        "attention_mask": _padded([np.ones_like(encoding.ids) for encoding in encodings], 0),
        "token_type_ids": _padded([encoding.type_ids for encoding in encodings], 0),
        # RoBERTa counts the tokens that are not padding, from pad_token_id + 1; padding stays at pad_token_id.
        "position_ids": np.cumsum(real_BS, axis=1) * real_BS + pad,
        MASKED_POSITIONS.name: _padded([masks_of(encoding, manifest) for encoding in encodings], 0),
    }
    feeds = {}
    for spec in graph.inputs:
        if all(isinstance(axis, int) for axis in spec.shape):
            feeds[spec.name] = np.ones(
                [int(axis) for axis in spec.shape], spec.dtype
            )  # head_mask: every head takes part
        elif spec.name in arrays:
            feeds[spec.name] = np.expand_dims(arrays[spec.name], 1) if CHOICES in spec.shape else arrays[spec.name]
        else:
            raise InputError(
                f"the graph takes {spec.name!r}, which does not follow from text: use load() and Session.run, "
                "or export without it."
            )
    return feeds


def rows_from_outputs(
    outputs: Mapping[str, np.ndarray], encodings: Sequence[Encoding], graph: Graph, manifest: Manifest
) -> Iterator[dict[str, np.ndarray]]:
    """Yield what each encoding got, padding cut off, in fp32. Each row is a view of the batch: take what you need."""
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
    """Cut the axes that are left of `axes`, the last ones."""
    return array[tuple(cuts.get(axis, slice(None)) for axis in axes[-array.ndim :])]


def _padded(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
    array = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for target, row in zip(array, rows, strict=True):
        target[: len(row)] = row
    return array
