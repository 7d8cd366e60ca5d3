"""Writing graphs to their files, weight by weight, and describing them for the manifest."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from rpln_graphs.errors import GraphError
from rpln_runtime.manifest import Graph, TensorSpec

PROTOBUF_LIMIT: Final = 2 * 10**9
"""The most bytes of weights in a graph's own file: a protobuf message holds less than 2 GiB."""

WEIGHTS_NAME: Final = "model.onnx.data"
"""The file that several graphs of a bundle read their weights from."""
SMALLEST_OUTSIDE: Final = 1024
"""The fewest bytes of a weight that is stored outside: shape inference reads shapes and scalars, which stay inside."""
ALIGNMENT: Final = 64
"""Weights begin at multiples of this number of bytes, so that they can be mapped into memory."""

# The tags of three fields in onnx.proto: the field's number, and wire type 2, which says that a length follows.
MODEL_GRAPH: Final = 7 << 3 | 2
GRAPH_INITIALIZER: Final = 5 << 3 | 2
TENSOR_RAW_DATA: Final = 9 << 3 | 2


OnBytes: TypeAlias = Callable[[int, int], None]
"""A function that is told how many bytes of weights are written, and how many there are."""


def save_graphs(
    models: Mapping[str, ir.Model], folder: Path, *, on_bytes: OnBytes = lambda _done, _total: None
) -> None:
    """Write each model to its file in `folder`; several models store their weights in one file, equal weights once.

    Weights are compared by contents, because two graphs of one network may scale them differently. One weight at a time
    is in memory. Raises GraphError as `save_graph` does.
    """
    if len(models) == 1:
        ((name, model),) = models.items()
        save_graph(model, folder / name, on_bytes=on_bytes)
        return
    places: dict[bytes, int] = {}
    total = sum(weight.nbytes for model in models.values() for weight in _weights(model))
    done = 0
    with (folder / WEIGHTS_NAME).open("wb") as stream:
        for name, model in models.items():
            _check(model)
            outside = model.clone()
            for value in outside.graph.initializers.values():
                value.const_value = _stored(value.const_value, stream, places)
                done += 0 if value.const_value is None else value.const_value.nbytes
                on_bytes(done, total)
            ir.save(outside, folder / name)


def _stored(weight: ir.TensorProtocol | None, stream: BinaryIO, places: dict[bytes, int]) -> ir.TensorProtocol | None:
    """Return a reference to `weight` in the file of weights, written there if it is new; a small weight as it is."""
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


def save_graph(model: ir.Model, path: Path, *, on_bytes: OnBytes = lambda _done, _total: None) -> None:
    """Write `model` to `path`, with weights of up to 2 GB inside, and larger ones in `path`.data beside it.

    One weight at a time is in memory: weights that passes transposed or scaled are computed when they are written.
    Raises GraphError, with the words of onnx.checker or shape inference, for a graph that breaks the specification.
    """
    _check(model)
    weights = _weights(model)
    total = sum(weight.nbytes for weight in weights)
    if total > PROTOBUF_LIMIT:
        ir.save(
            model,
            path,
            external_data=f"{path.name}.data",
            callback=lambda _weight, place: on_bytes(place.offset, total),
        )
        return
    with path.open("wb") as stream:
        _write_model(stream, _proto_without_weights(model), weights, on_bytes)


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    return [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]


def _check(model: ir.Model) -> None:
    """Raise GraphError for a graph that breaks ONNX's specification."""
    try:
        common.CheckerPass(full_check=True)(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"onnx.checker refuses the graph: {error}. Please report it (rpln doctor).") from error


def _proto_without_weights(model: ir.Model) -> onnx.ModelProto:
    """Return the protobuf message of `model` without its weights."""
    skeleton = model.clone()
    for value in skeleton.graph.initializers.values():
        value.const_value = None
    skeleton.graph.initializers.clear()
    return ir.to_proto(skeleton)


def _write_model(stream: BinaryIO, proto: onnx.ModelProto, weights: list[ir.TensorProtocol], on_bytes: OnBytes) -> None:
    """Write the ModelProto as protobuf would write it with all weights in memory.

    A message is preceded by its length; the length of a weight is known before its data are computed.
    """
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    heads = [_tensor_head(weight) for weight in weights]
    lengths = [len(head) + weight.nbytes for head, weight in zip(heads, weights, strict=True)]
    fields = [bytes([GRAPH_INITIALIZER]) + _varint(length) for length in lengths]
    stream.write(proto.SerializeToString())
    stream.write(bytes([MODEL_GRAPH]) + _varint(len(graph) + sum(map(len, fields)) + sum(lengths)))
    stream.write(graph)
    done, total = 0, sum(weight.nbytes for weight in weights)
    for field, head, weight in zip(fields, heads, weights, strict=True):
        stream.write(field + head)
        stream.write(weight.tobytes())
        done += weight.nbytes
        on_bytes(done, total)


def _tensor_head(weight: ir.TensorProtocol) -> bytes:
    """Return the bytes of a TensorProto before its raw data."""
    head = onnx.TensorProto(name=weight.name, data_type=weight.dtype, dims=weight.shape.numpy())
    return bytes(head.SerializeToString()) + bytes([TENSOR_RAW_DATA]) + _varint(weight.nbytes)


def _varint(number: int) -> bytes:
    """Return the protobuf encoding of an unsigned integer: seven bits a byte, lowest first, the top bit says "more"."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def graph_from_model(model: ir.Model, *, variant: str, path: str, values: Mapping[str, int]) -> Graph:
    """Return the manifest's description of `model`, which is stored at `path` in the bundle.

    `values` gives the number of values that an integer input may take, by its name.
    """
    return Graph(
        variant=variant,
        path=path,
        opset=model.opset_imports[""],
        inputs=tuple(_spec_from_value(value, values) for value in model.graph.inputs),
        outputs=tuple(_spec_from_value(value, {}) for value in model.graph.outputs),
    )


def weights_from_model(model: ir.Model) -> dict[str, int]:
    """Return how many bytes the graph's weights take in each type, by the type's name in numpy.

    Numbers and vectors of integers are sizes, indices and zero points; they are no weights.
    """
    sizes: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        weight = value.const_value
        if weight is not None and (weight.dtype.is_floating_point() or len(weight.shape) > 1):
            sizes[weight.dtype.numpy().name] += weight.nbytes
    return dict(sizes.most_common())


def precision_from_model(model: ir.Model) -> dict[str, int]:
    """Return how many bytes of the graph's weights are in each float type, by the type's name in numpy.

    fp8 is not among these types: as integers do, it stands for floats of another type, in which the graph computes.
    """
    sizes: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        weight = value.const_value
        if weight is not None and weight.dtype.is_floating_point() and weight.dtype.itemsize > 1:
            sizes[weight.dtype.numpy().name] += weight.nbytes
    return dict(sizes.most_common())


def _spec_from_value(value: ir.Value, values: Mapping[str, int]) -> TensorSpec:
    assert value.name is not None and value.dtype is not None and value.shape is not None
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return TensorSpec(name=value.name, dtype=value.dtype.numpy().name, shape=shape, values=values.get(value.name))
