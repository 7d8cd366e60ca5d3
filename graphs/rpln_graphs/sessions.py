"""onnx_ir model -> onnxruntime session: without optimizations, node for node as written, or with all of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rpln_graphs.errors import GraphError
from rpln_graphs.temporary import how_to_make_room, temporary_folder

if TYPE_CHECKING:
    import onnxruntime


Arrays = Mapping[str, NDArray[Any]]


def run_from_model(model: ir.Model, *, optimized: bool = False) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    """Return a function that takes the inputs of `model` and returns its outputs, by their names.

    ONNX Runtime computes them on CPU, node for node as written, or with all of its optimizations. Inputs in fp32 that
    the graph takes in fp16, such as an empty cache, are rounded to that. Raises GraphError if there is no room for a
    temporary copy of the graph.
    """
    with temporary_folder() as folder:
        if optimized:
            session = optimized_session_from_model(model, folder)
        else:
            session = session_from_model(model, folder, gives_out_all=False)
    names = [value.name or "" for value in model.graph.outputs]
    halves = {value.name for value in model.graph.inputs if value.dtype == ir.DataType.FLOAT16}

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        typed = {name: array.astype(np.float16) if name in halves else array for name, array in feeds.items()}
        return dict(zip(names, session.run(names, typed), strict=True))

    return run


def session_from_model(model: ir.Model, folder: Path, *, gives_out_all: bool = True) -> "onnxruntime.InferenceSession":
    """Save `model` to `folder` and return a session that runs it on CPU, node for node as written.

    The folder may be deleted afterwards. `gives_out_all` suits a graph of which many values are outputs: each is given
    out as soon as it is computed. Raises GraphError if it cannot be written.
    """
    import onnxruntime

    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # The session runs a few dozen times. Packed weights would need memory beside the graph's own.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    if gives_out_all:
        # The default order runs readers late, so that a graph with a probe behind each value would keep all values.
        # This one runs early what reads no input, so that a quantized graph would keep all weights as floats.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return _session(model, folder, options)


def optimized_session_from_model(model: ir.Model, folder: Path) -> "onnxruntime.InferenceSession":
    """Save `model` to `folder` and return a session that runs it on CPU with all of ONNX Runtime's optimizations.

    The folder may be deleted afterwards. Raises GraphError if it cannot be written.
    """
    return _session(model, folder, _options())


def _options() -> "onnxruntime.SessionOptions":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Idle threads that spin would slow down whatever runs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(model: ir.Model, folder: Path, options: "onnxruntime.SessionOptions") -> "onnxruntime.InferenceSession":
    import onnxruntime

    path = folder / "model.onnx"
    with writing_copies(folder):
        ir.save(model, path, external_data="model.onnx.data")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@contextmanager
def writing_copies(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes graphs to the temporary `folder`, into a GraphError."""
    try:
        yield
    except OSError as error:
        raise GraphError(
            f"a copy of the graph could not be written to {folder}: {error}. {how_to_make_room()}"
        ) from error
