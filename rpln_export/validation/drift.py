"""How far the residual stream of a graph drifts away from that of eager torch, block by block."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from rpln_export.validation.comparison import distance_between, torch_feeds
from rpln_export.validation.double_precision import in_float64
from rpln_graphs.calls import GraphCall
from rpln_graphs.emulate import LOWER_TYPES, rounding_copy
from rpln_graphs.feeds import Feeds
from rpln_graphs.passes.rescale_residual import SHIFT_KEY
from rpln_graphs.rewriting.residual_stream import residual_norms
from rpln_graphs.sessions import session_from_model
from rpln_graphs.temporary import temporary_folder
from rpln_graphs.tolerances import Distance, Tolerance, Yardstick
from rpln_runtime.tasks import LAST_LOGITS

Stream = dict[str, NDArray[Any]]
"""The residual stream [rows, sequence, hidden] that each LayerNorm reads, by the name of the LayerNorm's module."""


class EagerFeeds(Protocol):
    """A function that returns the inputs of eager torch, in fp32 or fp64."""

    def __call__(self, *, exact: bool) -> Feeds:
        """Return the inputs by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDrift:
    """How far the residual stream behind one block is from the reference.

    Attributes:
        block: the block, as "embeddings" or "encoder.layer.0.attention".
        reach: the largest magnitude of the stream by eager torch in fp32.
        distance: how far the graph's stream is from the reference.
        noise: how far that of eager torch in fp32 is from the reference.
    """

    block: str
    reach: float
    distance: Distance
    noise: Distance


class StreamDrift(NamedTuple):
    """What was measured behind the blocks, and the first block of which nothing is: None if all were measured."""

    blocks: Sequence[BlockDrift]
    unread: str | None


class Drift(NamedTuple):
    """The first block that drifts, or None, and what was measured, as a clause."""

    block: str | None
    words: str


def stream_drift(
    call: GraphCall,
    graph: ir.Model,
    feeds: Feeds,
    mask: NDArray[Any],
    *,
    eager_feeds: EagerFeeds,
    exact: bool,
) -> StreamDrift:
    """Return how far the residual stream of `graph` is from eager torch, behind each block.

    Residual rescaling is undone first. A graph in a lower type is run as its rounding copy, in fp32 with rounding after
    each operator.

    Some graphs drop rows that their head does not read (rpln_graphs.passes.select_rows). Where one row is left, that
    row is compared. Where several are left, the measurement ends.

    Args:
        call: the network in eager torch.
        graph: the network as an ONNX graph.
        feeds: the graph's inputs.
        mask: 1 at real tokens, 0 at padding; [rows, sequence].
        eager_feeds: makes the inputs of eager torch. They differ from `feeds` where another graph computed some.
        exact: whether the reference is eager torch in fp64; if not, it is eager torch in fp32.
    """
    eager = _eager_stream(call, eager_feeds(exact=False), exact=False)
    reference = _eager_stream(call, eager_feeds(exact=True), exact=True) if exact else eager
    found, real = _graph_stream(graph, feeds), mask.astype(bool)
    blocks: list[BlockDrift] = []
    block = "embeddings"
    for norm in eager:
        kept = _compared(eager[norm].shape, found[norm].shape, real, reads_last=LAST_LOGITS in call.outputs)
        if kept is None:
            return StreamDrift(blocks, block)
        values, expected = eager[norm][kept], reference[norm][kept]
        blocks.append(
            BlockDrift(
                block=block,
                reach=float(np.abs(values).max()),
                distance=distance_between(found[norm][real] if kept is real else found[norm], expected),
                noise=distance_between(values, expected),
            )
        )
        block = norm.removesuffix(".LayerNorm")
    return StreamDrift(blocks, None)


def first_drift(measured: StreamDrift, tolerance: Tolerance) -> Drift:
    """Return which block is the first to differ from the reference by more than `tolerance` accepts."""
    largest = 0.0
    for row in measured.blocks:
        yardstick = Yardstick(reach=row.reach, noise=row.noise)
        share = tolerance.share(row.distance, yardstick, exact=True)
        if not share <= 1.0:
            words = (
                f"{row.block} is the first block that drifts: behind it, {_words(row.distance, yardstick, tolerance)}"
            )
            return Drift(row.block, words)
        largest = max(largest, share)
    if measured.unread is not None:
        agrees = f"the residual stream agrees up to {measured.unread}"
        return Drift(None, f"{agrees}; behind it the graph computes only what its head reads")
    return Drift(None, f"the residual stream agrees behind every layer, by at most {largest:.0%} of what is accepted")


def _compared(expected: tuple[int, ...], found: tuple[int, ...], real: NDArray[np.bool_], *, reads_last: bool) -> Any:
    """Return the index of the part of eager torch's stream that a graph's stream of this shape is compared with."""
    if found == expected:
        return real
    if found == (expected[0], 1, *expected[2:]):  # only the row that the head reads is left
        return np.s_[:, -1:] if reads_last else np.s_[:, :1]
    return None


def _words(distance: Distance, yardstick: Yardstick, tolerance: Tolerance) -> str:
    """Return how far the residual stream is off, as a clause."""
    if not tolerance.wants_exact:
        return f"the residual stream differs by {distance.largest:.3g}, and its range is {yardstick.reach:.3g}"
    assert yardstick.noise is not None
    return (
        f"the residual stream is {distance.largest:.3g} from fp64 (rms {distance.rms:.3g}), eager torch's own "
        f"{yardstick.noise.largest:.3g} (rms {yardstick.noise.rms:.3g}), and its range is {yardstick.reach:.3g}"
    )


def _eager_stream(call: GraphCall, feeds: Feeds, *, exact: bool) -> Stream:
    """Return the residual stream that eager torch computes, in fp32, or with `exact` in fp64."""
    stream: Stream = {}

    def record(name: str) -> Any:
        return lambda _, inputs: stream.update({name: inputs[0].numpy()})

    base = call.model.base_model
    norms = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.LayerNorm) and name != "embeddings.LayerNorm"
    }
    handles = [module.register_forward_pre_hook(record(name)) for name, module in norms.items()]
    try:
        with torch.inference_mode(), in_float64(call) if exact else nullcontext():
            call(*torch_feeds(call, feeds, exact=exact))
    finally:
        for handle in handles:
            handle.remove()
    return stream


def _graph_stream(graph: ir.Model, feeds: Feeds) -> Stream:
    """Return the residual stream that the graph computes in ONNX Runtime, with rescaling undone."""
    lowered = any(value.dtype in LOWER_TYPES for node in graph.graph for value in node.outputs)
    copy = rounding_copy(graph) if lowered else graph.clone()
    nodes = {node.name: node for node in copy.graph}
    read = {module: nodes[node.name].inputs[0] for module, node in residual_norms(graph).items()}
    streams = {module: value for module, value in read.items() if value is not None}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(dict.fromkeys(streams.values()))
    names = [value.name or "" for value in copy.graph.outputs]
    with temporary_folder() as folder:
        values = session_from_model(copy, folder).run(names, feeds)
    by_name = dict(zip(names, values, strict=True))
    scale = 2.0 ** int(graph.metadata_props.get(SHIFT_KEY, "0"))
    return {norm: by_name[value.name or ""] * scale for norm, value in streams.items()}
