"""Writes a graph to its folder, checks it as onnx does, and reads back what was written."""

from collections import Counter
from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir

from rpln_graphs.errors import GraphError
from rpln_runtime.manifest import Graph, TensorSpec

PROTOBUF_LIMIT: Final = 2 * 10**9
"""A protobuf message holds less than 2 GiB; weights beyond this go to a file of their own."""


def save_graph(model: ir.Model, path: Path) -> None:
    """Write `model` to `path`, weights inside up to 2 GB, else in `path`.data beside it."""
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    external = f"{path.name}.data" if weights > PROTOBUF_LIMIT else None
    ir.save(model, path, external_data=external)


def check_graph(path: Path) -> None:
    """Run onnx's full checker, shape inference included, over the saved graph. Raises GraphError with its words."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"onnx.checker refuses {path.name}: {error}. Please report it (rpln doctor).") from error


def graph_from_model(model: ir.Model, *, variant: str, path: str) -> Graph:
    """The manifest's description of `model`, to be stored at `path` within the bundle."""
    return Graph(
        variant=variant,
        path=path,
        opset=model.opset_imports[""],
        inputs=tuple(_spec_from_value(value) for value in model.graph.inputs),
        outputs=tuple(_spec_from_value(value) for value in model.graph.outputs),
    )


def precision_from_model(model: ir.Model) -> dict[str, int]:
    """How many bytes of weights the graph holds in each float type: its precision, read off the graph itself."""
    sizes: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype.is_floating_point():
            sizes[value.const_value.dtype.numpy().name] += value.const_value.nbytes
    return dict(sizes.most_common())


def _spec_from_value(value: ir.Value) -> TensorSpec:
    assert value.name is not None and value.dtype is not None and value.shape is not None
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return TensorSpec(name=value.name, dtype=value.dtype.numpy().name, shape=shape)
