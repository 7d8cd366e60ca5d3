"""Calibration: the ranges of a graph's values, measured by running it with the extremes of each value as outputs."""

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.errors import GraphError
from rpln_graphs.feeds import Feeds
from rpln_graphs.rewriting.nodes import insert_behind, typed_node
from rpln_graphs.rewriting.ranges import Ranges
from rpln_graphs.sessions import session_from_model
from rpln_graphs.temporary import temporary_folder

EXTREMES: Final = ("ReduceMax", "ReduceMin")
"""The operators that find extremes. The maximum of Abs would need a copy of each value, such as large logits."""


def measure_ranges(model: ir.Model, batches: Iterable[Feeds]) -> Ranges:
    """Return the largest |x| of each float value and initializer of the fp32 graph `model` over `batches`, by name.

    The range of a value without elements in any batch is 0. Needs onnxruntime. Raises GraphError, with the name of the
    value, if one is not finite.
    """
    ranges = {
        value.name or "": float(np.abs(value.const_value.numpy()).max(initial=0.0))
        for value in model.graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None
    }
    probed, outputs = _probed_model(model)
    with temporary_folder() as folder:
        session = session_from_model(probed, folder)
        for feeds in batches:
            extremes = session.run(list(outputs), feeds)
            for name, largest, smallest in zip(list(outputs.values())[::2], extremes[::2], extremes[1::2], strict=True):
                ranges[name] = max(ranges.get(name, 0.0), _reach(name, float(largest), float(smallest)))
    return ranges


def _reach(name: str, largest: float, smallest: float) -> float:
    """Return the largest magnitude of a value with these extremes. Raises GraphError if one is not finite."""
    if largest < smallest:
        return 0.0  # the extremes of no elements are -inf and inf: a decoder's past before its first step
    for extreme in (largest, smallest):
        if not math.isfinite(extreme):
            raise GraphError(
                f"{name} is {extreme} in fp32 already, so that its range cannot be measured: the checkpoint itself "
                "overflows. Check its weights, or export it in fp32."
            )
    return max(abs(largest), abs(smallest))


def _probed_model(model: ir.Model) -> tuple[ir.Model, dict[str, str]]:
    """Return a copy of `model` whose outputs are the extremes of every float value, and the name of the value of each.

    The copy shares the weights. Each extreme is computed right behind its value, so that no value outlives its readers.
    """
    copy = model.clone()
    graph = copy.graph
    graph.outputs.clear()
    outputs = {}
    for value, place in _float_values(graph):
        probes = [
            typed_node(
                operator,
                [value],
                {"keepdims": 0},
                name=f"rpln.{operator}.{value.name}",
                dtype=ir.DataType.FLOAT,
                shape=(),
            )
            for operator in EXTREMES
        ]
        for probe in probes:
            graph.outputs.append(probe.outputs[0])
            outputs[probe.name or ""] = value.name or ""
        insert_behind(graph, place, probes)
    return copy, outputs


def _float_values(graph: ir.Graph) -> list[tuple[ir.Value, ir.Node | None]]:
    """Return every float value with the node that computes it, or None for a graph input."""
    inputs = [(value, None) for value in graph.inputs]
    computed = [(value, node) for node in graph for value in node.outputs]
    return [(value, node) for value, node in (*inputs, *computed) if value.dtype == ir.DataType.FLOAT]
