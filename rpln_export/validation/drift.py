"""The search for the first block of a network whose output drifts away from eager torch."""

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
from rpln_graphs.temporary import temporary_folder
from rpln_runtime.tasks import LAST_LOGITS

Stream = dict[str, NDArray[Any]]
"""The residual stream [rows, sequence, hidden] that each LayerNorm reads, by the name of the LayerNorm's module."""


def first_drift(
    call: GraphCall, graph: ir.Model, feeds: Feeds, mask: NDArray[Any], *, eager_feeds: Feeds, difference: float
) -> str | None:
    """Return in words which block of `graph` is the first to differ from eager torch; None where no block differs.

    A block differs where the residual stream behind it differs by more than `difference` times its range. Residual
    rescaling is undone first. A graph in a lower type is run as its rounding copy, in fp32 with rounding after each
    operator.

    Some graphs drop rows that their head does not read (rpln_graphs.passes.select_rows). Where one row is left, that
    row is compared. Where several are left, the search ends.

    Args:
        call: the network in eager torch.
        graph: the network as an ONNX graph.
        feeds: the graph's inputs.
        mask: 1 at real tokens, 0 at padding; [rows, sequence].
        eager_feeds: the inputs of eager torch. They differ from `feeds` where another graph computed some of these.
        difference: the accepted share of the range.
    """
    expected = _eager_stream(call, eager_feeds)
    found = _graph_stream(graph, feeds)
    real = mask.astype(bool)
    block = "embeddings"
    for norm, reference in expected.items():
        one, other = reference, found[norm]
        if other.shape == one.shape:
            one, other = one[real], other[real]
        elif other.shape == one[:, :1].shape:  # only the row that the head reads is left
            one = one[:, -1:] if LAST_LOGITS in call.outputs else one[:, :1]
        else:
            return f"the residual stream agrees up to {block}; behind it the graph computes only what its head reads"
        reach = float(np.abs(one).max())
        error = float(np.abs(other - one).max())
        if not error <= difference * reach:
            return (
                f"{block} is the first block that drifts: behind it, the residual stream differs by {error:.3g}, and "
                f"its range is {reach:.3g}"
            )
        block = norm.removesuffix(".LayerNorm")
    return None


def _eager_stream(call: GraphCall, feeds: Feeds) -> Stream:
    """Return the residual stream that eager torch computes."""
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
