"""Keeps what torch's exporter gives on disk: an export takes seconds, and hundreds of tests export the same networks.

Of a trace the graph is kept, but not the weights of the model. A graph from the cache takes them from the model at
hand, as a new one does. So the key contains the names, shapes and ties of weights, but not their values. Of
transformers' own networks, which tests export to files, the file is kept, and the values are in its key.
"""

import hashlib
import json
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch.onnx._internal.exporter._registration import ONNXRegistry

from rpln_graphs import trace
from rpln_graphs.calls import GraphCall
from tests.sharing import forget_old, made_once

Export = Callable[[GraphCall, int], ir.Model]

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = (
    "model/rpln_model/**/*.py",
    "graphs/rpln_graphs/calls.py",
    "graphs/rpln_graphs/feeds.py",
    "graphs/rpln_graphs/stages.py",
    "graphs/rpln_graphs/trace.py",
    "runtime/rpln_runtime/tasks.py",
    "tests/trace_cache.py",
)
"""Our files that decide what the exporter gives. The passes that clean up a trace are not among them: they always run.
"""
DISTRIBUTIONS: Final = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript")
NAMED_BY_PLACE: Final = {"_name_or_path", "transformers_version"}
"""Fields of a config that name the place that it was loaded from."""
GENERATIONS: Final = 12
"""How many states of the sources have their graphs kept: three files, two versions of transformers, two branches."""


_export: Final[Export] = trace._export
_folder: Path | None = None


@contextmanager
def traces_from(folder: Path) -> Iterator[None]:
    """Make `trace_model` and `export_once` use the cache in `folder` for what the exporter gives."""
    forget_old(folder, keep=GENERATIONS)

    def export(call: GraphCall, opset: int) -> ir.Model:
        path = _generation(folder, *SOURCES) / key_of(call, opset)
        made_once(path, lambda part: part.write_bytes(_bytes_from_graph(_export(call, opset), call)))
        return _graph_from_bytes(path.read_bytes(), call)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(trace, "_export", export)
        monkeypatch.setattr(sys.modules[__name__], "_folder", folder)
        # The exporter reads its table of operators from source code at every call, so the table is cached, too.
        monkeypatch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@contextmanager
def traced_anew() -> Iterator[None]:
    """Make `trace_model` trace without the cache, for tests of tracing itself."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(trace, "_export", _export)
        yield


def export_once(model: torch.nn.Module, path: Path, export: Callable[[Path], object], *parts: object) -> None:
    """Write the graph of `model` to `path` with `export`, or copy the file of an earlier call with the same arguments.

    Arguments are the same if the model has the same modules, configs and weights, `parts` are equal, and `export` comes
    from the same source file.
    """
    if _folder is None:
        export(path)
        return
    source = str(Path(export.__code__.co_filename).relative_to(ROOT))
    values = [tensor.detach().numpy().tobytes() for tensor in _weights(model).values()]
    key = _digest(_described(model, *parts), *values)
    shutil.copyfile(made_once(_generation(_folder, source) / f"{key}.onnx", export), path)


# -- what a trace depends on -----------------------------------------------------------------------------------------


@cache
def _generation(folder: Path, *sources: str) -> Path:
    """Return the folder for what these sources and versions give."""
    versions = [sys.version, *(f"{name} {version(name)}" for name in DISTRIBUTIONS)]
    files = sorted({path for pattern in sources for path in ROOT.glob(pattern)})
    digest = _digest("\n".join([*versions, *sources]).encode(), *(path.read_bytes() for path in files))
    home = folder / digest
    home.mkdir(parents=True, exist_ok=True)
    home.touch()
    return home


def key_of(call: GraphCall, opset: int) -> str:
    """Return a digest of all that a trace depends on, except sources and versions. Values of weights do not count."""
    return _digest(_described(call, call.inputs, call.outputs, opset))


def _described(model: torch.nn.Module, *parts: object) -> bytes:
    description = {
        "parts": [repr(part) for part in parts],
        "modules": repr(model),
        "types": [f"{type(module).__module__}.{type(module).__qualname__}" for module in model.modules()],
        "configs": [_fields(module.config) for module in model.modules() if hasattr(module, "config")],
        "weights": _structure(model),
    }
    return json.dumps(description, sort_keys=True, default=str).encode()


def _fields(config: Any) -> Any:
    fields = config.to_dict() | {"attention": config._attn_implementation}
    return _without_place(fields)


def _without_place(fields: Any) -> Any:
    if not isinstance(fields, dict):
        return fields
    return {name: _without_place(value) for name, value in fields.items() if name not in NAMED_BY_PLACE}


def _structure(model: torch.nn.Module) -> list[Any]:
    """Return name, type and shape of every weight, and the first weight that it shares its memory with."""
    first: dict[int, str] = {}
    return [
        (name, str(tensor.dtype), tensor.shape, tensor.stride(), first.setdefault(tensor.data_ptr(), name))
        for name, tensor in _weights(model).items()
    ]


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]


# -- a graph without its weights ---------------------------------------------------------------------------------------


def _bytes_from_graph(graph: ir.Model, call: GraphCall) -> bytes:
    proto = ir.to_proto(graph)
    weights = _weights(call)
    for tensor in proto.graph.initializer:
        traced: Any = graph.graph.initializers[tensor.name].const_value
        own = weights.get(tensor.name)
        if own is not None and own.data_ptr() == traced.raw.data_ptr() and own.shape == traced.raw.shape:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=tensor.name)
    return zlib.compress(proto.SerializeToString(), level=1)


def _graph_from_bytes(data: bytes, call: GraphCall) -> ir.Model:
    graph: ir.Model = ir.from_proto(onnx.ModelProto.FromString(zlib.decompress(data)))
    weights = _weights(call)
    for name, value in graph.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = TorchTensor(weights[name], name)
    return graph
