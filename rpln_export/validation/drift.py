"""The search for the first block of a network whose output drifts away from eager torch."""

from contextlib import nullcontext
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


class Drift(NamedTuple):
    """The first block that drifts, or None, and what was measured, as a clause."""

    block: str | None
    words: str


def first_drift(
    call: GraphCall,
    graph: ir.Model,
    feeds: Feeds,
    mask: NDArray[Any],
    *,
    eager_feeds: EagerFeeds,
    tolerance: Tolerance,
) -> Drift:
    """Return which block of `graph` is the first to differ from eager torch by more than `tolerance` accepts.

    What is compared is the residual stream behind each block. Residual rescaling is undone first. A graph in a lower
    type is run as its rounding copy, in fp32 with rounding after each operator.

    Some graphs drop rows that their head does not read (rpln_graphs.passes.select_rows). Where one row is left, that
    row is compared. Where several are left, the search ends.

    Args:
        call: the network in eager torch.
        graph: the network as an ONNX graph.
        feeds: the graph's inputs.
        mask: 1 at real tokens, 0 at padding; [rows, sequence].
        eager_feeds: makes the inputs of eager torch. They differ from `feeds` where another graph computed some.
        tolerance: what is accepted.
    """
    eager = _eager_stream(call, eager_feeds(exact=False), exact=False)
    reference = _eager_stream(call, eager_feeds(exact=True), exact=True) if tolerance.wants_exact else eager
    found, real = _graph_stream(graph, feeds), mask.astype(bool)
    block, largest = "embeddings", 0.0
    for norm in eager:
        kept = _compared(eager[norm].shape, found[norm].shape, real, reads_last=LAST_LOGITS in call.outputs)
        if kept is None:
            words = f"the residual stream agrees up to {block}; behind it the graph computes only what its head reads"
            return Drift(None, words)
        values, exact = eager[norm][kept], reference[norm][kept]
        distance = distance_between(found[norm][real] if kept is real else found[norm], exact)
        yardstick = Yardstick(reach=float(np.abs(values).max()), noise=distance_between(values, exact))
        share = tolerance.share(distance, yardstick, exact=True)
        if not share <= 1.0:
            words = f"{block} is the first block that drifts: behind it, {_words(distance, yardstick, tolerance)}"
            return Drift(block, words)
        block, largest = norm.removesuffix(".LayerNorm"), max(largest, share)
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
