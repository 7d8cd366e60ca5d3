"""Observation of activations over calibration texts: their extremes, a sample of their values, and their moments."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """What was seen of one activation.

    Attributes:
        low: its smallest value.
        high: its largest value.
        sample: some of its values in fp32, spread evenly over all that was seen.
        channels: the largest magnitude in each channel, which is a place on the last axis.
    """

    low: float
    high: float
    sample: Array
    channels: Array


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

    It is as `observe` otherwise.
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
    flat = array.reshape(-1)
    step = max(1, flat.size // SAMPLE) | 1  # odd: an even step would meet the same channels in every token
    return Observed(
        low=float(flat.min()),
        high=float(flat.max()),
        sample=flat[::step].copy(),
        channels=np.abs(array.reshape(-1, array.shape[-1])).max(axis=0),
    )


def _joined(parts: Sequence[Observed]) -> Observed:
    return Observed(
        low=min(part.low for part in parts),
        high=max(part.high for part in parts),
        sample=np.concatenate([part.sample for part in parts]),
        channels=np.max([part.channels for part in parts], axis=0),
    )
