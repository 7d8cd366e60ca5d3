"""Writes graphs to their files, weight by weight, and describes what was written."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from rpln_graphs.errors import GraphError
from rpln_runtime.manifest import Graph, TensorSpec

PROTOBUF_LIMIT: Final = 2 * 10**9
"""A protobuf message holds less than 2 GiB; weights beyond this go to a file of their own."""

WEIGHTS_NAME: Final = "model.onnx.data"
"""What several graphs of a bundle read their weights from."""
SMALLEST_OUTSIDE: Final = 1024
"""Shapes and scalars are read by whoever infers shapes, and are worth no reference."""
ALIGNMENT: Final = 64
"""In bytes: where a weight begins, so that it can be mapped."""

# Field numbers of onnx.proto, each with wire type 2 (length-delimited).
MODEL_GRAPH: Final = 7 << 3 | 2
GRAPH_INITIALIZER: Final = 5 << 3 | 2
TENSOR_RAW_DATA: Final = 9 << 3 | 2


def save_graphs(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Write each model to its file in `folder`; several keep their weights in one file beside them, each of them once.

    Weights are told apart by their contents: two graphs of one network may hold them scaled differently. One at a time
    is in memory. Raises what `save_graph` raises.
    """
    if len(models) == 1:
        ((name, model),) = models.items()
        save_graph(model, folder / name)
        return
    places: dict[bytes, int] = {}
    with (folder / WEIGHTS_NAME).open("wb") as stream:
        for name, model in models.items():
            _check(model)
            outside = model.clone()
            for value in outside.graph.initializers.values():
                value.const_value = _stored(value.const_value, stream, places)
            ir.save(outside, folder / name)


def _stored(weight: ir.TensorProtocol | None, stream: BinaryIO, places: dict[bytes, int]) -> ir.TensorProtocol | None:
    """A reference to `weight` in the file of weights, added to it if it is new; small ones stay as they are."""
    if weight is None or weight.nbytes < SMALLEST_OUTSIDE:
        return weight
    data = weight.tobytes()
    digest = hashlib.sha256(data).digest()
    if digest not in places:
        stream.write(bytes(-stream.tell() % ALIGNMENT))
        places[digest] = stream.tell()
        stream.write(data)
    shape = ir.Shape(weight.shape.numpy())
    return ir.ExternalTensor(WEIGHTS_NAME, places[digest], len(data), weight.dtype, shape=shape, name=weight.name or "")


def save_graph(model: ir.Model, path: Path) -> None:
    """Write `model` to `path`, weights inside up to 2 GB, else in `path`.data beside it.

    Either way one weight at a time is in memory: weights that passes turned or scaled are computed as they are written.
    Raises GraphError with onnx.checker's words, shape inference included, for a graph that breaks the specification.
    """
    _check(model)
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(weight.nbytes for weight in weights) > PROTOBUF_LIMIT:
        ir.save(model, path, external_data=f"{path.name}.data")
        return
    with path.open("wb") as stream:
        _write_model(stream, _proto_without_weights(model), weights)


def _check(model: ir.Model) -> None:
    try:
        common.CheckerPass(full_check=True)(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"onnx.checker refuses the graph: {error}. Please report it (rpln doctor).") from error


def _proto_without_weights(model: ir.Model) -> onnx.ModelProto:
    skeleton = model.clone()
    for value in skeleton.graph.initializers.values():
        value.const_value = None
    skeleton.graph.initializers.clear()
    return ir.to_proto(skeleton)


def _write_model(stream: BinaryIO, proto: onnx.ModelProto, weights: list[ir.TensorProtocol]) -> None:
    """Write the ModelProto as protobuf would, were it given all weights at once.

    The length of a message stands before it, and that of a weight is known before its data are.
    """
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    heads = [_tensor_head(weight) for weight in weights]
    lengths = [len(head) + weight.nbytes for head, weight in zip(heads, weights, strict=True)]
    fields = [bytes([GRAPH_INITIALIZER]) + _varint(length) for length in lengths]
    stream.write(proto.SerializeToString())
    stream.write(bytes([MODEL_GRAPH]) + _varint(len(graph) + sum(map(len, fields)) + sum(lengths)))
    stream.write(graph)
    for field, head, weight in zip(fields, heads, weights, strict=True):
        stream.write(field + head)
        stream.write(weight.tobytes())


def _tensor_head(weight: ir.TensorProtocol) -> bytes:
    """A TensorProto up to, and without, its raw data."""
    head = onnx.TensorProto(name=weight.name, data_type=weight.dtype, dims=weight.shape.numpy())
    return bytes(head.SerializeToString()) + bytes([TENSOR_RAW_DATA]) + _varint(weight.nbytes)


def _varint(number: int) -> bytes:
    """The protobuf encoding of an unsigned integer: seven bits a byte, lowest first, the top bit says "more"."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def graph_from_model(model: ir.Model, *, variant: str, path: str, values: Mapping[str, int]) -> Graph:
    """The manifest's description of `model`, to be stored at `path` within the bundle.

    `values` says how many values an integer input may take.
    """
    return Graph(
        variant=variant,
        path=path,
        opset=model.opset_imports[""],
        inputs=tuple(_spec_from_value(value, values) for value in model.graph.inputs),
        outputs=tuple(_spec_from_value(value, {}) for value in model.graph.outputs),
    )


def precision_from_model(model: ir.Model) -> dict[str, int]:
    """How many bytes of weights the graph holds in each float type: its precision, read off the graph itself."""
    sizes: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype.is_floating_point():
            sizes[value.const_value.dtype.numpy().name] += value.const_value.nbytes
    return dict(sizes.most_common())


def _spec_from_value(value: ir.Value, values: Mapping[str, int]) -> TensorSpec:
    assert value.name is not None and value.dtype is not None and value.shape is not None
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return TensorSpec(name=value.name, dtype=value.dtype.numpy().name, shape=shape, values=values.get(value.name))
