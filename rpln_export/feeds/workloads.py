"""The inputs of a graph for a workload: batches of random tokens, on which forms are measured."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.feeds.texts import MASK_EVERY
from rpln_export.plan.workloads import Workload
from rpln_graphs.feeds import Feeds, build_feeds
from rpln_graphs.stress import Limits, arrays_from_mask
from rpln_runtime.generation.options import DEFAULT_NEW_TOKENS
from rpln_runtime.tasks import (
    BATCH,
    CHOICES,
    ENCODER_SEQUENCE,
    MASK_AXIS,
    MASKED_POSITIONS,
    PAST,
    SEQUENCE,
    TOTAL,
)

STEPS: Final = DEFAULT_NEW_TOKENS - 1
"""The steps that are measured with each prompt: those of a generation where the user says nothing. What is fastest at
prompts need not be fastest at steps.
"""


def workload_feeds(planned: PlannedGraph, workload: Workload, limits: Limits) -> Iterator[tuple[Feeds, int]]:
    """Yield the inputs of a graph for each batch of the workload, and how often they are run in a row.

    A graph that reads a cache gets each batch as a prompt, and then as STEPS steps after it, which are all alike. One
    that takes no prompts gets a single step.
    """
    shortest_past = planned.plan.variant.shortest_past
    for batch in workload.batches:
        if not shortest_past:
            yield _feeds(planned, [min(length, limits.usable_length) for length in batch], limits, past=0), 1
        if shortest_past is not None:
            step = _feeds(planned, [1] * len(batch), limits, past=min(max(batch), limits.usable_length - 1))
            yield step, 1 if shortest_past else STEPS


def _feeds(planned: PlannedGraph, lengths: Sequence[int], limits: Limits, *, past: int) -> Feeds:
    """Return the inputs for new tokens of these `lengths`, after `past` earlier tokens in each row."""
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
    return build_feeds(
        planned.call.wanted_inputs(planned.plan.inputs, sizes),
        lambda name, shape: known[name] if name in known else rng.standard_normal(shape),
    )


def _ids(planned: PlannedGraph, mask: NDArray[np.int64], limits: Limits, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return random ids and padding, with mask tokens where the graph looks for them."""
    ids = rng.integers(0, limits.vocab_size, mask.shape)
    if planned.mask_token_id is not None:
        ids = np.where(ids == planned.mask_token_id, 0, ids)
        ids[:, ::MASK_EVERY] = planned.mask_token_id
    return np.where(mask == 1, ids, limits.pad_token_id)
