"""Observation of activations over calibration texts: their extremes, a sample of their values, and their moments."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.feeds import Feeds
from rpln_graphs.quantization.quantizers import Array
from rpln_graphs.sessions import session_from_model
from rpln_graphs.temporary import temporary_folder

SAMPLE: Final = 2048
"""The most values of one activation that a batch adds to its sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was seen of one activation [..., C], whose channels are the places on its last axis.

    Attributes:
        lows: the smallest value of each channel, [C].
        highs: the largest value of each channel, [C].
        means: the mean of each channel, [C], in fp64.
        squares: the mean of the squares of each channel, [C], in fp64.
        tokens: how many values each channel has.
        sample: some of the values in fp32, spread evenly over all that was seen.
        places: the channel of each value in the sample.
    """

    lows: Array
    highs: Array
    means: Array
    squares: Array
    tokens: int
    sample: Array
    places: Array

    @property
    def low(self) -> float:
        """The smallest value."""
        return float(self.lows.min())

    @property
    def high(self) -> float:
        """The largest value."""
        return float(self.highs.max())

    @property
    def channels(self) -> Array:
        """The largest magnitude of each channel, [C]."""
        return np.asarray(np.maximum(-self.lows, self.highs))

    def divided(self, factors: Array) -> "Observed":
        """Return what would have been seen with each channel divided by its factor, which is positive."""
        return replace(
            self,
            lows=self.lows / factors,
            highs=self.highs / factors,
            means=self.means / factors,
            squares=self.squares / factors.astype(np.float64) ** 2,
            sample=self.sample / factors[self.places],
        )


def observe(
    model: ir.Model, names: Collection[str], batches: Iterable[Feeds], *, advance: Callable[[], None] = lambda: None
) -> Mapping[str, Observed]:
    """Return what is seen of the activations called `names` when the fp32 graph `model` runs on `batches`.

    `advance` is called after each batch. Needs onnxruntime.
    """
    seen: dict[str, list[Observed]] = {}
    for name, array in _values(model, names, batches, advance):
        seen.setdefault(name, []).append(_observed(array))
    return {name: _joined(parts) for name, parts in seen.items()}


def moments(
    model: ir.Model, names: Collection[str], batches: Iterable[Feeds], *, advance: Callable[[], None] = lambda: None
) -> Mapping[str, Array]:
    """Return the sum of x^T x [K, K], in fp32, over the rows x [K] of the activations called `names`.

    `advance` is called after each batch. Needs onnxruntime.
    """
    summed: dict[str, Array] = {}
    for name, array in _values(model, names, batches, advance):
        rows = array.reshape(-1, array.shape[-1])
        summed[name] = summed.get(name, np.float32(0)) + rows.T @ rows
    return summed


def _values(
    model: ir.Model, names: Collection[str], batches: Iterable[Feeds], advance: Callable[[], None]
) -> Iterator[tuple[str, Array]]:
    """Yield the values of the activations for each batch, with their names. Empty ones are left out."""
    wanted = list(dict.fromkeys(names))
    with temporary_folder() as folder:
        session = session_from_model(_giving_out(model, wanted), folder)
    for feeds in batches:
        for name, array in zip(wanted, session.run(wanted, feeds), strict=True):
            if array.size:
                yield name, array.astype(np.float32, copy=False)
        advance()


def _giving_out(model: ir.Model, names: Collection[str]) -> ir.Model:
    """Return a copy of `model` whose outputs are the values called `names`. It shares the weights."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in names)
    return copy


def _observed(array: Array) -> Observed:
    flat, rows = array.reshape(-1), array.reshape(-1, array.shape[-1])
    step = max(1, flat.size // SAMPLE) | 1  # odd: an even step would meet the same channels in every token
    return Observed(
        lows=rows.min(axis=0),
        highs=rows.max(axis=0),
        means=rows.mean(axis=0, dtype=np.float64),
        squares=np.square(rows, dtype=np.float64).mean(axis=0),
        tokens=len(rows),
        sample=flat[::step].copy(),
        places=np.arange(0, flat.size, step) % rows.shape[1],
    )


def _joined(parts: Sequence[Observed]) -> Observed:
    tokens = [part.tokens for part in parts]
    return Observed(
        lows=np.min([part.lows for part in parts], axis=0),
        highs=np.max([part.highs for part in parts], axis=0),
        means=np.average([part.means for part in parts], axis=0, weights=tokens),
        squares=np.average([part.squares for part in parts], axis=0, weights=tokens),
        tokens=sum(tokens),
        sample=np.concatenate([part.sample for part in parts]),
        places=np.concatenate([part.places for part in parts]),
    )
