"""Measures how far the values of a graph reach: it is run with the largest magnitude of each value as an output."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.passes.base import Ranges
from rpln_graphs.sessions import session_from_model
from rpln_graphs.stress import Feeds

PROBE: Final = "rpln.probe."


def measure_ranges(model: ir.Model, batches: Iterable[Feeds]) -> Ranges:
    """The largest |x| of each float value and initializer of the fp32 graph `model` over `batches`, by name.

    Values that no batch touched count 0. Needs onnxruntime.
    """
    ranges = {
        value.name or "": float(np.abs(value.const_value.numpy()).max(initial=0.0))
        for value in model.graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None
    }
    probed, names = _probed_model(model)
    with tempfile.TemporaryDirectory() as folder:
        session = session_from_model(probed, Path(folder))
        for feeds in batches:
            peaks = session.run([PROBE + name for name in names], feeds)
            for name, peak in zip(names, peaks, strict=True):
                ranges[name] = max(ranges.get(name, 0.0), float(peak))
    return ranges


def _probed_model(model: ir.Model) -> tuple[ir.Model, Sequence[str]]:
    """A copy of `model`, sharing its weights, whose outputs are max|x| of every float value.

    Each probe stands right behind what it measures, so that no value outlives its last reader.
    """
    copy = model.clone()
    graph = copy.graph
    graph.outputs.clear()
    names = []
    for value, place in _float_values(graph):
        magnitude = ir.node("Abs", [value])
        peak = ir.node("ReduceMax", [magnitude.outputs[0]], {"keepdims": 0})
        output = peak.outputs[0]
        output.name, output.dtype, output.shape = f"{PROBE}{value.name}", ir.DataType.FLOAT, ir.Shape(())
        if place is None:
            graph.insert_before(graph[0], [magnitude, peak])
        else:
            graph.insert_after(place, [magnitude, peak])
        graph.outputs.append(output)
        names.append(value.name or "")
    return copy, names


def _float_values(graph: ir.Graph) -> list[tuple[ir.Value, ir.Node | None]]:
    """Every float value with the node that makes it; None for a graph input."""
    inputs = [(value, None) for value in graph.inputs]
    computed = [(value, node) for node in graph for value in node.outputs]
    return [(value, node) for value, node in (*inputs, *computed) if value.dtype == ir.DataType.FLOAT]
