"""Traces kept on disk: torch's exporter takes seconds, and hundreds of tests trace the same few networks.

What is kept is the exporter's graph without the model's weights. A graph that is read from here borrows them from the
model at hand, as a fresh one does; so their values need not be in the key, but names, shapes and ties are.
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

from rpln_graphs import trace
from rpln_graphs.calls import GraphCall
from tests.sharing import made_once

Export = Callable[[GraphCall, int], ir.Model]

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = (
    "model/rpln_model/**/*.py",
    "graphs/rpln_graphs/calls.py",
    "graphs/rpln_graphs/stages.py",
    "graphs/rpln_graphs/trace.py",
    "runtime/rpln_runtime/tasks.py",
    "tests/trace_cache.py",
)
"""The files of ours that decide what the exporter gives; the passes that clean a trace up run on every graph anew."""
DISTRIBUTIONS: Final = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript")
NAMED_BY_PLACE: Final = {"_name_or_path", "transformers_version"}
"""Fields of a config that say where it is from."""
GENERATIONS: Final = 4
"""How many states of the sources have their traces kept: two lines of transformers, before and after a change."""


_export: Final[Export] = trace._export


@contextmanager
def traces_from(folder: Path) -> Iterator[None]:
    """Let `trace_model` take what the exporter gives from `folder`, where the same was traced before."""
    home = folder / generation()
    home.mkdir(parents=True, exist_ok=True)
    home.touch()
    _forget_old(folder)

    def export(call: GraphCall, opset: int) -> ir.Model:
        path = home / key_of(call, opset)
        made_once(path, lambda part: part.write_bytes(_bytes_from_graph(_export(call, opset), call)))
        return _graph_from_bytes(path.read_bytes(), call)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(trace, "_export", export)
        yield


@contextmanager
def traced_anew() -> Iterator[None]:
    """Let `trace_model` trace, whatever is in the cache: for tests of tracing itself."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(trace, "_export", _export)
        yield


def _forget_old(folder: Path) -> None:
    newest_first = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first[GENERATIONS:]:
        shutil.rmtree(path, ignore_errors=True)


# -- what a trace depends on -----------------------------------------------------------------------------------------


@cache
def generation() -> str:
    """A digest of the sources and of the versions."""
    versions = [sys.version, *(f"{name} {version(name)}" for name in DISTRIBUTIONS)]
    files = sorted({path for pattern in SOURCES for path in ROOT.glob(pattern)})
    return _digest("\n".join(versions).encode(), *(path.read_bytes() for path in files))


def key_of(call: GraphCall, opset: int) -> str:
    """A digest of all that decides about a trace but the sources and versions: the values of weights do not."""
    parts = {
        "opset": opset,
        "inputs": repr(call.inputs),
        "outputs": repr(call.outputs),
        "modules": repr(call),
        "types": [f"{type(module).__module__}.{type(module).__qualname__}" for module in call.modules()],
        "configs": [_fields(module.config) for module in call.modules() if hasattr(module, "config")],
        "weights": _structure(call),
    }
    return _digest(json.dumps(parts, sort_keys=True, default=str).encode())


def _fields(config: Any) -> Any:
    fields = json.loads(config.to_json_string(use_diff=False)) | {"attention": config._attn_implementation}
    return _without_place(fields)


def _without_place(fields: Any) -> Any:
    if not isinstance(fields, dict):
        return fields
    return {name: _without_place(value) for name, value in fields.items() if name not in NAMED_BY_PLACE}


def _structure(call: GraphCall) -> list[Any]:
    """Name, type and shape of every weight, and the first of those that it shares its memory with."""
    first: dict[int, str] = {}
    return [
        (name, str(tensor.dtype), tensor.shape, tensor.stride(), first.setdefault(tensor.data_ptr(), name))
        for name, tensor in _weights(call).items()
    ]


def _weights(call: GraphCall) -> dict[str, torch.Tensor]:
    return {
        **dict(call.named_parameters(remove_duplicate=False)),
        **dict(call.named_buffers(remove_duplicate=False)),
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
    graph = ir.from_proto(onnx.ModelProto.FromString(zlib.decompress(data)))
    weights = _weights(call)
    for name, value in graph.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = TorchTensor(weights[name], name)
    return graph
