"""The stress set of a decoder: prompts under every mask, then steps with the cache that they leave.

A script is a prompt and its moves. A move adds a single token or several at once; before that it may put the rows of
the cache into another order, repeat some, or drop some. Each case of a script holds the inputs of the graph besides the
cache, and the inputs of all tokens so far, from which a network without a cache computes the same.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rpln_graphs.feeds import Feeds
from rpln_graphs.stress import MASK_KINDS, Case, Limits, random_ids, random_mask
from rpln_runtime.tasks import INT64, SEQUENCE, Tensor

MEMORY_LENGTH: Final = 6
"""The number of tokens that an encoder-decoder's encoder reads, if it can read so many."""


class Move(NamedTuple):
    """A step with `tokens` new tokens in each row. `rows` are the rows of the cache that go on, or None for all."""

    tokens: int
    rows: tuple[int, ...] | None = None


class Script(NamedTuple):
    """A batch of prompts of `prompt` tokens, and the moves that continue them."""

    batch: int
    prompt: int
    moves: tuple[Move, ...]


SINGLE: Final = (Move(1),) * 3
"""Three steps of a single token."""
SCRIPTS: Final = (
    Script(batch=1, prompt=1, moves=SINGLE),
    Script(batch=2, prompt=5, moves=SINGLE),
    Script(batch=3, prompt=17, moves=(Move(3), Move(1), Move(4))),
    Script(batch=2, prompt=6, moves=(Move(1, (1, 0)), Move(1, (0, 0, 1, 1)), Move(2, (3, 0)), Move(1, (1,)))),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingCase(Case):
    """One step of a script: `feeds` and `mask` belong to its new tokens.

    `rows` are the rows of the cache that continue, or None at the prompt. `history` holds the inputs of all tokens so
    far, and `memory` the inputs of the encoder's graph for these rows; it is empty without an encoder.
    """

    rows: NDArray[np.int64] | None
    history: Feeds
    memory: Feeds

    @property
    def tokens(self) -> int:
        """The number of all tokens so far, padding included."""
        return int(self.history["attention_mask"].size)

    @property
    def length(self) -> int:
        """The number of tokens of a text so far, padding included."""
        return int(self.history["attention_mask"].shape[-1])


def decoding_cases(
    inputs: Sequence[Tensor], limits: Limits, *, memory: Sequence[Tensor] = (), memory_limits: Limits | None = None
) -> Iterator[DecodingCase]:
    """Yield the stress set for a decoder's graph, the same on every call; `inputs` are those of its own tokens.

    `memory` are the inputs of the encoder's graph, within `memory_limits`. One script ends at the last usable position.
    """
    rng = np.random.default_rng(0)
    writer = _Writer(list(inputs), limits, list(memory), memory_limits, rng)
    for mask, script in itertools.product(MASK_KINDS, SCRIPTS):
        fits = script.prompt + sum(move.tokens for move in script.moves) <= limits.usable_length
        if fits and (script.prompt > 1 or mask == "none") and (script.batch > 1 or mask != "empty"):
            yield from writer.steps(script, mask)
    moves = SINGLE[: limits.usable_length - 1]
    last = Script(batch=1, prompt=limits.usable_length - len(moves), moves=moves)
    if last not in SCRIPTS:
        yield from writer.steps(last, "none")


@dataclass(frozen=True, slots=True)
class _Writer:
    """A writer of cases: the inputs of a decoder's graph and of its encoder's, their limits, and random numbers."""

    inputs: list[Tensor]
    limits: Limits
    memory: list[Tensor]
    memory_limits: Limits | None
    rng: np.random.Generator

    def steps(self, script: Script, mask: str) -> Iterator[DecodingCase]:
        """Yield the cases of a script whose prompts have this kind of mask."""
        title = f"{script.batch} prompts of {script.prompt}, mask {mask}"
        history = self._tokens(random_mask(mask, script.batch, script.prompt, self.rng))
        memory = self._memory(script.batch, mask)
        sizes = self.limits.sizes
        # There is one head mask for the whole script, because the cache was computed with it.
        heads = self.rng.integers(0, 2, (sizes["num_hidden_layers"], sizes["num_attention_heads"]))
        yield self._step(f"{title}, prompt", mask, history, script.prompt, memory, heads=heads, rows=None)
        for number, move in enumerate(script.moves, start=1):
            count = len(history["attention_mask"])
            rows = np.array(range(count) if move.rows is None else move.rows)
            added = self._tokens(np.ones((len(rows), move.tokens), dtype=np.int64))
            history = {name: np.concatenate([history[name][rows], added[name]], axis=1) for name in history}
            memory = {name: array[rows] for name, array in memory.items()}
            yield self._step(f"{title}, step {number}", mask, history, move.tokens, memory, heads=heads, rows=rows)

    def _tokens(self, keep: NDArray[np.int64]) -> Feeds:
        """Return random inputs for new tokens, [rows, sequence] or [rows, sequence, hidden]; `keep` is their mask."""
        limits, rng = self.limits, self.rng
        return {
            "input_ids": np.where(keep == 1, random_ids(limits, rng, keep.shape), limits.pad_token_id),
            "attention_mask": keep,
            "token_type_ids": rng.integers(0, limits.type_vocab_size, keep.shape),
            "inputs_embeds": rng.standard_normal((*keep.shape, limits.sizes["hidden_size"])),
        }

    def _step(
        self,
        name: str,
        mask_kind: str,
        history: Feeds,
        new: int,
        memory: Feeds,
        *,
        heads: NDArray[np.int64],
        rows: NDArray[np.int64] | None,
    ) -> DecodingCase:
        """Return the case of the last `new` tokens of `history`, which follows from the mask and the ids there."""
        keep = history["attention_mask"]
        positions = self.limits.pad_token_id + np.cumsum(keep, axis=-1) * keep
        made = {**history, "position_ids": positions, "head_mask": heads}
        whole: Feeds = {tensor.name: made[tensor.name].astype(_dtype(tensor)) for tensor in self.inputs}
        feeds = {
            tensor.name: whole[tensor.name][:, -new:]
            if SEQUENCE in tensor.axes and tensor.name != "attention_mask"
            else whole[tensor.name]
            for tensor in self.inputs
        }
        return DecodingCase(
            name=name,
            feeds=feeds,
            mask=keep[:, -new:],
            mask_kind=mask_kind,
            rows=rows,
            history=whole,
            memory=memory,
        )

    def _memory(self, rows: int, mask: str) -> Feeds:
        """Return the inputs of the encoder's graph: ids and their mask, or hidden states."""
        if not self.memory:
            return {}
        limits = self.memory_limits
        assert limits is not None
        length = min(MEMORY_LENGTH, limits.usable_length)
        keep = random_mask("none" if mask == "empty" else mask, rows, length, self.rng)
        made: Feeds = {"attention_mask": keep}
        made["input_ids"] = np.where(keep == 1, random_ids(limits, self.rng, keep.shape), limits.pad_token_id)
        made["encoder_hidden_states"] = self.rng.standard_normal((*keep.shape, limits.sizes["encoder_hidden_size"]))
        return {tensor.name: made[tensor.name].astype(_dtype(tensor)) for tensor in self.memory} | {
            "attention_mask": keep
        }


def _dtype(tensor: Tensor) -> type:
    return np.int64 if tensor.dtype == INT64 else np.float32
