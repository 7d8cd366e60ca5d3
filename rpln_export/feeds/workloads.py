"""A workload as the inputs of a graph."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.plan.workloads import Workload
from rpln_graphs.stress import Feeds, Limits, arrays_from_mask
from rpln_runtime.tasks import (
    BATCH,
    CHOICES,
    ENCODER_SEQUENCE,
    INT64,
    MASK_AXIS,
    MASKED_POSITIONS,
    PAST,
    SEQUENCE,
    TOTAL,
)

MASK_EVERY: Final = 7
"""One token of so many is a mask, for a graph that goes by masks: RoBERTa is trained on 15% of them."""


def workload_feeds(planned: PlannedGraph, workload: Workload, limits: Limits) -> Iterator[Feeds]:
    """The workload as inputs of a graph: for one that reads a cache, each batch as prompt and as the step behind it."""
    shortest_past = planned.plan.variant.shortest_past
    for batch in workload.batches:
        if not shortest_past:
            yield _feeds(planned, [min(length, limits.usable_length) for length in batch], limits, past=0)
        if shortest_past is not None:
            yield _feeds(planned, [1] * len(batch), limits, past=min(max(batch), limits.usable_length - 1))


def _feeds(planned: PlannedGraph, lengths: Sequence[int], limits: Limits, *, past: int) -> Feeds:
    rng = np.random.default_rng(0)
    longest = max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    sizes = {BATCH: len(lengths), CHOICES: 1, SEQUENCE: longest, ENCODER_SEQUENCE: longest}
    masked = np.arange(0, longest, MASK_EVERY)
    sizes |= {PAST: past, TOTAL: past + longest, MASK_AXIS: masked.size}
    known = arrays_from_mask(mask, pad=limits.pad_token_id, past=past)
    known["input_ids"] = _ids(planned, mask, limits, rng)
    known[MASKED_POSITIONS.name] = np.tile(masked, (len(lengths), 1)) * (masked < np.array(lengths)[:, None])
    known["head_mask"] = np.ones([limits.sizes[axis] for axis in ("num_hidden_layers", "num_attention_heads")])
    feeds: Feeds = {}
    for tensor in planned.plan.inputs:
        for name, shape in planned.call.shapes(tensor, sizes).items():
            array = known[name] if name in known else rng.standard_normal(shape)
            feeds[name] = array.reshape(shape).astype(np.int64 if tensor.dtype == INT64 else np.float32)
    return feeds


def _ids(planned: PlannedGraph, mask: NDArray[np.int64], limits: Limits, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random ids, padding, and mask tokens where the graph looks for them."""
    ids = rng.integers(0, limits.vocab_size, mask.shape)
    if planned.mask_token_id is not None:
        ids = np.where(ids == planned.mask_token_id, 0, ids)
        ids[:, ::MASK_EVERY] = planned.mask_token_id
    return np.where(mask == 1, ids, limits.pad_token_id)
