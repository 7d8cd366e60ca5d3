"""Measures base-size networks on the device in interleaved rounds, ours and torch's, from numpy to numpy."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.encoder_cases import MIXED_LENGTHS, Network
from benchmarks.gpu.contenders import ENCODERS, WRITERS, Maker, Site, Unavailable
from benchmarks.gpu.device import Device
from benchmarks.gpu.results import Results
from rpln_export.bench.rounds import Clock, Run, Sample, run_rounds
from rpln_export.forms.speeds import speed_from_ratios

SECONDS: Final = 8.0
"""How long the rounds of a case go on; the warm-up, in which torch compiles, comes before."""
FIRST_WORD: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedCase:
    """A batch of texts, or of prompts, of `lengths` tokens."""

    name: str
    lengths: tuple[int, ...]

    def feeds(self, vocabulary: int) -> Mapping[str, np.ndarray]:
        """Return random ids with padding on the right, and their mask; both (B, S)."""
        real_BS = np.arange(max(self.lengths)) < np.array(self.lengths)[:, None]
        ids_BS = np.random.default_rng(0).integers(FIRST_WORD, vocabulary, real_BS.shape)
        return {"input_ids": np.where(real_BS, ids_BS, 1), "attention_mask": real_BS.astype(np.int64)}


ENCODER_CASES: Final = (
    SpeedCase(name="b1 s32", lengths=(32,)),
    SpeedCase(name="b1 s128", lengths=(128,)),
    SpeedCase(name="b8 s128", lengths=(128,) * 8),
    SpeedCase(name="b32 s384", lengths=(384,) * 32),
    SpeedCase(name="mixed", lengths=MIXED_LENGTHS),
)
WRITER_CASES: Final = (
    SpeedCase(name="decoding b1", lengths=(32,)),
    SpeedCase(name="decoding b8", lengths=(32,) * 8),
)


def measure_encoders(folder: Path, network: Network, device: Device, results: Results) -> None:
    """Measure the encoder in every case."""
    for case in ENCODER_CASES:
        _measure(case, ENCODERS, Site(folder, network, device), results)


def measure_writers(folder: Path, network: Network, device: Device, results: Results) -> None:
    """Measure the decoder in every case."""
    for case in WRITER_CASES:
        _measure(case, WRITERS, Site(folder, network, device), results)


def _measure(case: SpeedCase, makers: Mapping[str, Maker], site: Site, results: Results) -> None:
    """Measure a case with all contenders that run here, and write a fact for each; of the others, why they do not."""
    feeds = case.feeds(site.network.vocabulary)
    runs: dict[str, Callable[[], np.ndarray]] = {}
    for name, maker in makers.items():
        try:
            run = maker(site, feeds)
            run()
        except Unavailable as error:
            results.add("left_out", {"what": f"{case.name}: {name}", "because": str(error)})
        else:
            runs[name] = run
    reference = next(iter(runs))
    expected = runs[reference]()
    rounds = run_rounds([[_timed(run) for run in runs.values()]], seconds=SECONDS)
    seconds = dict(zip(runs, map(_round_seconds, rounds.samples[0]), strict=True))
    for name, run in runs.items():
        speed = speed_from_ratios([other / own for other, own in zip(seconds[reference], seconds[name], strict=True)])
        results.add(
            "speed",
            {
                "case": case.name,
                "contender": name,
                "milliseconds": 1000 * statistics.median(seconds[name]),
                "against": reference,
                "speed": speed.median,
                "low": speed.low,
                "high": speed.high,
                "rounds": len(seconds[name]),
                "items_per_second": len(case.lengths) / statistics.median(seconds[name]),
                "difference": _difference(run(), expected, feeds["attention_mask"].astype(bool)),
            },
        )


def _timed(run: Callable[[], object]) -> Run:
    def timed(clock: Clock) -> Sample:
        started = clock()
        run()
        return Sample(total=clock() - started)

    return timed


def _round_seconds(rounds: Sequence[Sequence[Sample]]) -> list[float]:
    """Return the median seconds of each round."""
    return [statistics.median(sample.total for sample in samples) for samples in rounds]


def _difference(found: np.ndarray, expected: np.ndarray, real_BS: np.ndarray) -> float:
    """Return how far answers are from the reference's: logits as a share of the largest; of first tokens, how many.

    Later tokens follow from the first ones: in a half type, a single near tie changes all that come after it.
    """
    if found.dtype.kind == "i":
        return float((found[:, 0] != expected[:, 0]).mean())
    found, expected = found[real_BS].astype(np.float32), expected[real_BS].astype(np.float32)
    return float(np.abs(found - expected).max() / np.abs(expected).max())
