"""Finds the first block whose contribution to the residual stream drifts: what a failed validation names."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from rpln_graphs.calls import GraphCall
from rpln_graphs.emulate import LOWER_TYPES, rounding_copy
from rpln_graphs.feeds import Feeds
from rpln_graphs.passes.rescale_residual import SHIFT_KEY
from rpln_graphs.rewriting.residual_stream import residual_norms
from rpln_graphs.sessions import session_from_model
from rpln_runtime.tasks import LAST_LOGITS

Stream = dict[str, NDArray[Any]]
"""The residual stream [rows, sequence, hidden] as each LayerNorm reads it, by the name of the LayerNorm's module."""


def first_drift(
    call: GraphCall, graph: ir.Model, feeds: Feeds, mask: NDArray[Any], *, eager_feeds: Feeds, difference: float
) -> str | None:
    """Say which block of `graph` is the first to differ from eager torch by more than `difference`, None if none does.

    `feeds` and `eager_feeds` are those of either, which are not the same where other graphs made some of them, and
    `mask` tells the real tokens among theirs. The difference is relative to the range of the residual stream at that
    place; residual rescaling is undone, and a graph in a lower type computes with rounding after each operator. Where
    a graph goes on with the row that its head reads, that is compared; with other rows, it is looked at up to there.
    """
    expected = _eager_stream(call, eager_feeds)
    found = _graph_stream(graph, feeds)
    real = mask.astype(bool)
    block = "embeddings"
    for norm, reference in expected.items():
        one, other = reference, found[norm]
        if other.shape == one.shape:
            one, other = one[real], other[real]
        elif other.shape == one[:, :1].shape:  # behind a selection of rows, see rpln_graphs.passes.select_rows
            one = one[:, -1:] if LAST_LOGITS in call.outputs else one[:, :1]
        else:
            return f"the residual stream agrees up to {block}; behind it the graph computes only what its head reads"
        reach = float(np.abs(one).max())
        error = float(np.abs(other - one).max())
        if not error <= difference * reach:
            off = f"of range {reach:.3g}, is {error:.3g} off"
            return f"{block} is the first to drift: the residual stream behind it, {off}"
        block = norm.removesuffix(".LayerNorm")
    return None


def _eager_stream(call: GraphCall, feeds: Feeds) -> Stream:
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
        with torch.inference_mode():
            call(*(torch.from_numpy(feeds[name]) for name in call.input_names))
    finally:
        for handle in handles:
            handle.remove()
    return stream


def _graph_stream(graph: ir.Model, feeds: Feeds) -> Stream:
    lowered = any(value.dtype in LOWER_TYPES for node in graph.graph for value in node.outputs)
    copy = rounding_copy(graph) if lowered else graph.clone()
    nodes = {node.name: node for node in copy.graph}
    read = {module: nodes[node.name].inputs[0] for module, node in residual_norms(graph).items()}
    streams = {module: value for module, value in read.items() if value is not None}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(dict.fromkeys(streams.values()))
    names = [value.name or "" for value in copy.graph.outputs]
    with tempfile.TemporaryDirectory() as folder:
        values = session_from_model(copy, Path(folder)).run(names, feeds)
    by_name = dict(zip(names, values, strict=True))
    scale = 2.0 ** int(graph.metadata_props.get(SHIFT_KEY, "0"))
    return {norm: by_name[value.name or ""] * scale for norm, value in streams.items()}
