"""torch model -> clean onnx_ir model: one trace per graph, dynamic axes, names that read like the model.

Tracing takes about a second for each layer, although the layers are alike. So a deep network is traced with its first
three layers, and the third is then repeated (`repeat_layers`), before any pass has changed the graph.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import version_converter

from rpln_graphs.calls import GraphCall
from rpln_graphs.errors import GraphError
from rpln_graphs.input_sizes import settle_input_sizes
from rpln_graphs.passes import CLEAN_UP
from rpln_graphs.repeat_layers import repeat_layers
from rpln_graphs.rewriting.base import Context
from rpln_graphs.short_networks import short_call
from rpln_graphs.trace_methods import REPEAT, TRACE_METHODS
from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from rpln_runtime.tasks import (
    BATCH,
    BATCH_CHOICES,
    CHOICES,
    ENCODER_SEQUENCE,
    INT64,
    MASK_AXIS,
    MASKED_TOKENS,
    PAST,
    SEQUENCE,
    TOTAL,
    Tensor,
)

OLDEST_OPSET: Final = 17
NEWEST_OPSET: Final = 25
"""The newest opset that a graph can have; OLDEST_OPSET is the oldest."""
OLDEST_TRACED_OPSET: Final = 18
"""The oldest opset that torch traces to. A graph in an older one is converted after its trace."""
DEFAULT_OPSET: Final = 20
"""The opset where the user names none: the first one with Gelu as an operator."""

EXAMPLE_SIZES: Final = {BATCH: 2, CHOICES: 3, SEQUENCE: 7, PAST: 6, TOTAL: 13, ENCODER_SEQUENCE: 11, MASK_AXIS: 5}
"""The sizes to trace with. torch would write 0 and 1 into the graph, and take equal sizes for one and the same."""


def trace_model(
    model: RobertaPreLayerNormPreTrainedModel,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    opset: int = DEFAULT_OPSET,
    trace: str = REPEAT,
) -> ir.Model:
    """Return the graph that `model` is traced into, cleaned up, with exactly these inputs and outputs.

    `model` is one of rpln_model's heads in eval mode; axes named after config fields are looked up in `model.config`.
    Weights are shared with `model`, not copied. `trace` is a row of TRACE_METHODS, which all make the same graph.
    Raises GraphError for an opset that is not supported or that the graph cannot be converted to, and for layers that
    are not alike.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise GraphError(f"opset {opset} is not supported: choose one of {OLDEST_OPSET} to {NEWEST_OPSET}.")
    call = GraphCall(model, inputs, outputs).eval()
    graph = _traced(call, max(opset, OLDEST_TRACED_OPSET), trace)
    settle_input_sizes(graph.graph)
    for make_pass in CLEAN_UP:
        make_pass.configure(graph, Context())(graph)
    if opset < OLDEST_TRACED_OPSET:
        _convert_down(graph, opset)
    _name_output_axes(graph, call)
    _name_counted_axes(graph)
    _clear_notes(graph)
    return graph


def example_inputs(call: GraphCall, sizes: Mapping[str, int]) -> list[torch.Tensor]:
    """Return a tensor of ones for each input of `call`; the sizes of dynamic axes are looked up in `sizes`."""
    return [
        torch.ones(shape, dtype=torch.int64 if tensor.dtype == INT64 else torch.float32)
        for tensor in call.inputs
        for shape in call.shapes(tensor, sizes).values()
    ]


def _traced(call: GraphCall, opset: int, trace: str) -> ir.Model:
    """Return the trace of `call`, of which layers behind the third are repetitions if `trace` says so."""
    short = short_call(call) if TRACE_METHODS[trace] else None
    if short is None:
        return _export(call, opset)
    graph = _export(short, opset)
    repeat_layers(graph.graph, call)
    return graph


def _export(call: GraphCall, opset: int) -> ir.Model:
    """Return what torch traces `call` into, with every axis in EXAMPLE_SIZES dynamic."""
    dynamic = tuple(
        {position: axis for position, axis in enumerate(tensor.axes) if axis in EXAMPLE_SIZES}
        for tensor in call.inputs
        for _ in tensor.names(call.layers)
    )
    with warnings.catch_warnings(), _quiet_logger("torch.onnx._internal.exporter._registration"):
        # torch reports three things that nobody need act on: torchvision is missing, two inputs share the name of an
        # axis, and torch itself uses a class that it has deprecated.
        warnings.filterwarnings("ignore", message=r".*axis name: .* will not be used", category=UserWarning)
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
        program = torch.onnx.export(
            call,
            tuple(example_inputs(call, EXAMPLE_SIZES)),
            input_names=call.input_names,
            output_names=call.output_names,
            dynamic_shapes=(dynamic,),
            opset_version=opset,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return program.model


@contextmanager
def _quiet_logger(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _convert_down(graph: ir.Model, opset: int) -> None:
    """Convert the graph to an opset that torch does not trace to. Raises GraphError if that fails."""
    with _quiet_logger("onnxscript.version_converter"):
        version_converter.convert_version(graph, opset, fallback=True)
    if graph.opset_imports[""] != opset:
        raise GraphError(
            f"onnx cannot convert this graph to opset {opset}. Choose --opset {OLDEST_TRACED_OPSET} or later."
        )


def _name_output_axes(graph: ir.Model, call: GraphCall) -> None:
    """Give the dynamic axes of outputs the names in the task's row, in place of those that shape inference made."""
    tensors = [tensor for tensor in call.outputs for _ in tensor.names(call.layers)]
    for value, tensor in zip(graph.graph.outputs, tensors, strict=True):
        assert value.shape is not None
        value.shape = ir.Shape(
            axis if axis in {*EXAMPLE_SIZES, BATCH_CHOICES, MASKED_TOKENS} else size
            for axis, size in zip(tensor.axes, value.shape, strict=True)
        )


def _name_counted_axes(graph: ir.Model) -> None:
    """Name the sizes that depend on data, which torch calls u0, u1, and so on: all are the number of mask tokens."""
    for value in (value for node in graph.graph for value in node.outputs):
        if value.shape is not None and any(re.fullmatch(r"u\d+", str(size)) for size in value.shape):
            value.shape = ir.Shape(MASKED_TOKENS if re.fullmatch(r"u\d+", str(size)) else size for size in value.shape)


def _clear_notes(graph: ir.Model) -> None:
    """Remove what torch noted down about nodes and values."""
    common.ClearMetadataAndDocStringPass()(graph)
    computed = (value for node in graph.graph for value in node.outputs)
    for value in (*graph.graph.inputs, *graph.graph.initializers.values(), *computed):
        value.metadata_props.clear()
