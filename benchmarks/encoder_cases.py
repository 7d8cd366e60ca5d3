"""CASES: one row for each batch that encoders are measured on.

Shapes: B batch, S sequence.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

Feeds = dict[str, NDArray[np.int64]]

HEAD_SIZE: Final = 64
FIRST_WORD: Final = 5
"""The first id that is not a special token."""
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
        """The name of its folders."""
        return f"{self.task}-{self.layers}x{self.hidden}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A batch of texts of `lengths` tokens, padded on the right. A share of the tokens is `masked`.

    Attributes:
        workload: the workload that the form of the bundle is chosen for.
        options: options of the export.
        asked: how many times as fast as `asked_against` this project should be.
        saves_memory: how many MB less than the plain graph it should take. If given, peak memory is measured.
        rounds: how often each contender runs.
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
        """Return an array (B, S) that is true at real tokens."""
        real_BS: NDArray[np.bool_] = np.arange(max(self.lengths)) < np.array(self.lengths)[:, None]
        return real_BS

    def feeds(self) -> Feeds:
        """Return random ids, the same in every call."""
        return feeds_from_mask(self.real, self.network, masked=self.masked)


def feeds_from_mask(real_BS: NDArray[np.bool_], network: Network, *, masked: float = 0.0) -> Feeds:
    """Return random ids at real tokens, some of them the mask token, and padding at the others."""
    rng = np.random.default_rng(0)
    ids_BS = rng.integers(FIRST_WORD, network.vocabulary, real_BS.shape)
    ids_BS = np.where(rng.random(real_BS.shape) < masked, MASK, ids_BS)
    return {"input_ids": np.where(real_BS, ids_BS, PAD), "attention_mask": real_BS.astype(np.int64)}


TORCH: Final = "torch eager, fp32"
PLAIN: Final = "ONNX Runtime, plain graph"

TAGGER: Final = Network(task="token-classification")
MIXED_LENGTHS: Final = (256, 120, 80, 60, 48, 40, 36, 32, 28, 24, 22, 20, 18, 15, 12, 8)
"""Lengths that add up to a fifth of 16 x 256 tokens."""

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
    """Return the case for a smoke test: a tiny network that is exported once, in two rounds."""
    tiny = replace(case.network, layers=2, hidden=64, vocabulary=7500)
    lengths = tuple(max(2, length // 8) for length in case.lengths)
    return replace(case, network=tiny, rounds=2, lengths=lengths, workload="latency")
