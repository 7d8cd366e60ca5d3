"""CASES: one row per batch that encoders are measured on, and how it is fed.

Shapes: B batch, S sequence.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

Feeds = dict[str, NDArray[np.int64]]

HEAD_SIZE: Final = 64
FIRST_WORD: Final = 5
"""Ids below are special tokens."""
PAD: Final = 1
MASK: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What is exported: a task, and the sizes of a checkpoint with random weights."""

    task: str
    layers: int = 12
    hidden: int = 768
    vocabulary: int = 50265

    @property
    def name(self) -> str:
        """Names its folders."""
        return f"{self.task}-{self.layers}x{self.hidden}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row: texts of `lengths` tokens, padded on the right, a share of them `masked`.

    The bundle is chosen for `workload` and exported with `options`. `asked` is how many times as fast as
    `asked_against` this project shall be. Where `saves_memory` says how many MB it shall take less than the plain
    graph, peak memory is measured too. `rounds` is how often each contender runs.
    """

    name: str
    network: Network
    lengths: tuple[int, ...]
    workload: str
    asked: float
    asked_against: str
    rounds: int
    masked: float = 0.0
    options: tuple[str, ...] = ()
    saves_memory: int | None = None

    @property
    def real(self) -> NDArray[np.bool_]:
        """(B, S), true at real tokens."""
        real_BS: NDArray[np.bool_] = np.arange(max(self.lengths)) < np.array(self.lengths)[:, None]
        return real_BS

    def feeds(self) -> Feeds:
        """Random ids, the same on every call."""
        return feeds_from_mask(self.real, self.network, masked=self.masked)


def feeds_from_mask(real_BS: NDArray[np.bool_], network: Network, *, masked: float = 0.0) -> Feeds:
    """Random ids at real tokens, of which a share is the mask token, padding at the others."""
    rng = np.random.default_rng(0)
    ids_BS = rng.integers(FIRST_WORD, network.vocabulary, real_BS.shape)
    ids_BS = np.where(rng.random(real_BS.shape) < masked, MASK, ids_BS)
    return {"input_ids": np.where(real_BS, ids_BS, PAD), "attention_mask": real_BS.astype(np.int64)}


TORCH: Final = "torch eager, fp32"
PLAIN: Final = "ONNX Runtime, plain graph"

TAGGER: Final = Network(task="token-classification")
MIXED_LENGTHS: Final = (256, 120, 80, 60, 48, 40, 36, 32, 28, 24, 22, 20, 18, 15, 12, 8)
"""A fifth of 16 x 256."""

CASES: Final = (
    Case(
        name="b1 s32",
        network=TAGGER,
        lengths=(32,),
        workload="latency",
        asked=2.9,
        asked_against=TORCH,
        rounds=15,
    ),
    Case(
        name="b1 s128",
        network=TAGGER,
        lengths=(128,),
        workload="latency",
        asked=2.6,
        asked_against=TORCH,
        rounds=9,
    ),
    Case(
        name="b1 s384",
        network=TAGGER,
        lengths=(384,),
        workload="latency",
        asked=2.4,
        asked_against=TORCH,
        rounds=5,
    ),
    Case(
        name="b8 s128",
        network=TAGGER,
        lengths=(128,) * 8,
        workload="throughput",
        asked=2.5,
        asked_against=TORCH,
        rounds=3,
    ),
    Case(
        name="mixed lengths, b16 max 256, density 0.20",
        network=TAGGER,
        lengths=MIXED_LENGTHS,
        workload="ragged",
        asked=7.0,
        asked_against=TORCH,
        rounds=3,
    ),
    Case(
        name="fill-mask b8 s128, 15% masked",
        network=Network(task="fill-mask"),
        lengths=(128,) * 8,
        workload="throughput",
        asked=1.35,
        asked_against=PLAIN,
        rounds=3,
        masked=0.15,
        options=("--logits", "masked"),
        saves_memory=150,
    ),
    Case(
        name="text-classification, 4 layers, b1 s128",
        network=Network(task="text-classification", layers=4),
        lengths=(128,),
        workload="latency",
        asked=1.15,
        asked_against=PLAIN,
        rounds=15,
    ),
)


def small(case: Case) -> Case:
    """The case for a smoke test: a tiny network that is exported once, two rounds."""
    tiny = replace(case.network, layers=2, hidden=64, vocabulary=7500)
    lengths = tuple(max(2, length // 8) for length in case.lengths)
    return replace(case, network=tiny, rounds=2, lengths=lengths, workload="latency")
