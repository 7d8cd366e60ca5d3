"""Measures how far the values of a graph reach: it is run with the extremes of each value as its outputs."""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.errors import GraphError
from rpln_graphs.feeds import Feeds
from rpln_graphs.rewriting.base import Ranges
from rpln_graphs.sessions import session_from_model

EXTREMES: Final = ("ReduceMax", "ReduceMin")
"""Both rather than the maximum of Abs: that would copy every value, a vocabulary's logits among them."""


def measure_ranges(model: ir.Model, batches: Iterable[Feeds]) -> Ranges:
    """The largest |x| of each float value and initializer of the fp32 graph `model` over `batches`, by name.

    Values that no batch touched count 0. Needs onnxruntime. Raises GraphError naming a value that is not finite.
    """
    ranges = {
        value.name or "": float(np.abs(value.const_value.numpy()).max(initial=0.0))
        for value in model.graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None
    }
    probed, outputs = _probed_model(model)
    with tempfile.TemporaryDirectory() as folder:
        session = session_from_model(probed, Path(folder))
        for feeds in batches:
            extremes = session.run(list(outputs), feeds)
            for name, largest, smallest in zip(list(outputs.values())[::2], extremes[::2], extremes[1::2], strict=True):
                ranges[name] = max(ranges.get(name, 0.0), _reach(name, float(largest), float(smallest)))
    return ranges


def _reach(name: str, largest: float, smallest: float) -> float:
    """The largest magnitude between two extremes."""
    if largest < smallest:
        return 0.0  # of no element at all, as a decoder's past before its first step: -inf and inf
    for extreme in (largest, smallest):
        if not math.isfinite(extreme):
            raise GraphError(
                f"{name} becomes {extreme} in fp32 already, so its range cannot be measured. The checkpoint overflows "
                "by itself: check its weights, or export it in fp32."
            )
    return max(abs(largest), abs(smallest))


def _probed_model(model: ir.Model) -> tuple[ir.Model, dict[str, str]]:
    """A copy of `model`, sharing its weights, whose outputs are the extremes of every float value, and which is whose.

    Each probe stands right behind what it measures, so that no value outlives its last reader.
    """
    copy = model.clone()
    graph = copy.graph
    graph.outputs.clear()
    outputs = {}
    for value, place in _float_values(graph):
        probes = [ir.node(operator, [value], {"keepdims": 0}) for operator in EXTREMES]
        for probe in probes:
            output = probe.outputs[0]
            output.name = f"rpln.{probe.op_type}.{value.name}"
            output.dtype, output.shape = ir.DataType.FLOAT, ir.Shape(())
            graph.outputs.append(output)
            outputs[output.name] = value.name or ""
        if place is None:
            graph.insert_before(graph[0], probes)
        else:
            graph.insert_after(place, probes)
    return copy, outputs


def _float_values(graph: ir.Graph) -> list[tuple[ir.Value, ir.Node | None]]:
    """Every float value with the node that makes it; None for a graph input."""
    inputs = [(value, None) for value in graph.inputs]
    computed = [(value, node) for node in graph for value in node.outputs]
    return [(value, node) for value, node in (*inputs, *computed) if value.dtype == ir.DataType.FLOAT]
