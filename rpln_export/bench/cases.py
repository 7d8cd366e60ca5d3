"""Cases: the batches of tokens that every contender is measured on, and the inputs that graphs get for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rpln_export.feeds.texts import MASK_EVERY
from rpln_export.plan.workloads import workload_from_file
from rpln_graphs.feeds import Feeds, WantedInput, build_feeds
from rpln_graphs.stress import arrays_from_mask
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Graph, Manifest
from rpln_runtime.options import check_integer
from rpln_runtime.tasks import BATCH, CHOICES, ENCODER_SEQUENCE, MASK_AXIS, MASKED_POSITIONS, MASKED_TOKENS, SEQUENCE

DEFAULT_BATCHES: Final = (1, 8)
"""The sizes of batches where the user names none."""
DEFAULT_LENGTHS: Final = (32, 128)
"""The lengths in tokens where the user names none. A model that takes less gets its longest text."""
CHOICE_COUNT: Final = 2
"""The number of choices of each question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCase:
    """Batches that a contender runs one after another; their time together is the latency of the case.

    Attributes:
        name: what a table calls the case.
        batches: the lengths of the texts of each batch, in tokens. Each batch is padded to its longest text.
    """

    name: str
    batches: tuple[tuple[int, ...], ...]

    @property
    def items(self) -> int:
        """The number of texts; for multiple choice, of questions."""
        return sum(map(len, self.batches))

    @property
    def tokens(self) -> int:
        """The number of tokens of all texts, without padding."""
        return sum(map(sum, self.batches))

    @property
    def longest(self) -> int:
        """The number of tokens of the longest text."""
        return max(map(max, self.batches))


def make_cases(batches: Sequence[int] | None, lengths: Sequence[int] | Path | None, *, limit: int) -> list[BenchCase]:
    """Return a case for each batch with each length, or one for the batches in a file.

    `limit` is the most tokens of a text that all contenders take. Raises InputError for a batch or length below 1, for
    one beyond the limit, and for batches beside a file, which has its own; and PlanError for a broken file.
    """
    if isinstance(lengths, Path):
        if batches is not None:
            raise InputError(f"{lengths} says which texts make a batch. Leave the sizes of batches out.")
        workload = workload_from_file(lengths)
        cases = [BenchCase(name=workload.name, batches=workload.batches)]
    else:
        if lengths is None:
            lengths = list(dict.fromkeys(min(length, limit) for length in DEFAULT_LENGTHS))
        batches = DEFAULT_BATCHES if batches is None else batches
        for name, values in (("batch", batches), ("length", lengths)):
            if not values:
                raise InputError(f"no {name} is given, expected one or more integers.")
            for value in values:
                check_integer(name, value, minimum=1)
        cases = [
            BenchCase(name=f"batch {batch} x {length} tokens", batches=((length,) * batch,))
            for batch in dict.fromkeys(batches)
            for length in dict.fromkeys(lengths)
        ]
    for case in cases:
        if case.longest > limit:
            raise InputError(
                f"a text of {case.longest} tokens is too long: what is measured here takes {limit} at most, with the "
                "new tokens of a decoder. Choose shorter lengths."
            )
    return cases


def case_feeds(case: BenchCase, graph: Graph, manifest: Manifest) -> list[Feeds]:
    """Return the inputs of `graph` for each batch of the case: random tokens, the same on every call."""
    rng = np.random.default_rng(0)
    return [_batch_feeds(lengths, graph, manifest, rng) for lengths in case.batches]


def case_prompts(case: BenchCase, manifest: Manifest) -> list[list[list[int]]]:
    """Return the prompts of each batch, as lists of random tokens, the same on every call."""
    rng = np.random.default_rng(0)
    return [[_random_ids((length,), manifest, rng).tolist() for length in lengths] for lengths in case.batches]


def _batch_feeds(lengths: Sequence[int], graph: Graph, manifest: Manifest, rng: np.random.Generator) -> Feeds:
    axes = {axis for spec in (*graph.inputs, *graph.outputs) for axis in spec.shape}
    choices = CHOICE_COUNT if CHOICES in axes else 1
    longest = max(lengths)
    mask = (np.arange(longest) < np.repeat(lengths, choices)[:, None]).astype(np.int64)
    masked = np.arange(0, longest, MASK_EVERY)
    sizes = {BATCH: len(lengths), CHOICES: choices, SEQUENCE: longest, ENCODER_SEQUENCE: longest}
    sizes |= {MASK_AXIS: masked.size}
    ids = _random_ids(mask.shape, manifest, rng)
    if MASKED_TOKENS in axes:
        assert manifest.mask_token_id is not None
        ids[:, ::MASK_EVERY] = manifest.mask_token_id
    known = arrays_from_mask(mask, pad=manifest.pad_token_id)
    known["input_ids"] = np.where(mask == 1, ids, manifest.pad_token_id)
    known[MASKED_POSITIONS.name] = np.tile(masked, (len(mask), 1)) * (masked < mask.sum(axis=1, keepdims=True))
    wanted = [
        WantedInput(spec.name, spec.dtype, tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape))
        for spec in graph.inputs
    ]
    feeds = build_feeds(
        wanted,
        lambda name, shape: (
            known[name]
            if name in known
            else np.ones(shape, np.float32)
            if name == "head_mask"
            else rng.standard_normal(shape)
        ),
    )
    return {spec.name: feeds[spec.name].astype(spec.dtype) for spec in graph.inputs}


def _random_ids(shape: tuple[int, ...], manifest: Manifest, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return random ids of any token but padding and mask tokens."""
    ids = rng.integers(0, manifest.vocab_size, shape)
    special = {manifest.pad_token_id, manifest.mask_token_id}
    other = next(token for token in range(manifest.vocab_size) if token not in special)
    return np.where(np.isin(ids, [token for token in special if token is not None]), other, ids)
